"""Unknown names answered with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option nearest to `word` (case does not count), or None if nothing is near."""
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[near[0]] if near else None


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """The message for an unknown name: what was asked, the nearest, and all that there are."""
    known = sorted(options)
    near = closest(word, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"Unknown {kind} {word!r}.{hint} Known: {', '.join(known) or 'none'}."
