"""What messages say of a value: unknown names answered with the nearest known one, and long values cut."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

SHOWN = 100  # characters of a value in a message; who reads it has the file
_LIMITS = reprlib.Repr()
_LIMITS.maxstring = _LIMITS.maxother = _LIMITS.maxlong = SHOWN
_LIMITS.maxlevel = 4


def cut(text: str, most: int = SHOWN) -> str:
    """A text, or as many characters of it as a message should have."""
    return text if len(text) <= most else f"{text[:most]}..."


def shown(value: object) -> str:
    """A value as a message shows it, however long, deep or self-referring it is: `repr`, cut."""
    if isinstance(value, str):  # `reprlib` would leave out the middle of a text
        return repr(cut(value))
    try:
        return cut(_LIMITS.repr(value))
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option nearest to `word` (case does not count), or None if nothing is near."""
    if len(word) > SHOWN:  # comparing takes time in its square
        return None
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[near[0]] if near else None


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """The message for an unknown name: what was asked, the nearest, and all that there are."""
    known = sorted(options)
    near = closest(word, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"Unknown {kind} {shown(word)}.{hint} Known: {', '.join(known) or 'none'}."


# Control characters, halves of surrogate pairs (how Python spells bytes that are no UTF-8), and what ends or turns a
# line: none of them belongs in a name, and some act on a terminal.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_plain(name: str) -> bool:
    """Whether a name can be written everywhere: as UTF-8, on one line, on a terminal."""
    return not _UNSAFE.search(name)


def escaped(text: str, keep: str = "") -> str:
    r"""A text with what is not plain, but for the characters of `keep`, spelt as `\x1b`; non-UTF-8 bytes, too."""

    def spelt(match: re.Match[str]) -> str:
        code = ord(match[0])
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # how Python reads such a byte of a file name
        return match[0] if match[0] in keep else ascii(chr(byte))[1:-1]

    return _UNSAFE.sub(spelt, text)
