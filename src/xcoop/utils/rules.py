"""What values a config key takes, said once: a closed set of names, a range of numbers, or a list of either.

The rules of the engine's keys stand beside their defaults in `xcoop.engine.config`, those of the shared keys in
`xcoop.config.plugins`, and each trainer's beside its node. `xcoop.config.plugins.check_settings` is where all of them
are applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from xcoop.utils.console import is_plain, shown, unknown

Names = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Rule:
    """What is right, in words and as a test.

    Attributes:
        meaning: ends the sentence "it must be ...".
        holds: whether a value is right, of whatever type it is.
        fault: says of a key and its value what is wrong, in better words than `meaning`; None if there are none.
    """

    meaning: str
    holds: Callable[[Any], bool]
    fault: Callable[[str, Any], str] | None = None

    def check(self, key: str, value: Any) -> None:
        """ValueError with key, value and what would be right, unless the rule holds."""
        if not self.holds(value):
            raise ValueError(self.told(key, value))

    def told(self, key: str, value: Any) -> str:
        """What is wrong with a value of `key`."""
        return self.fault(key, value) if self.fault else f"{key} is {shown(value)}; it must be {self.meaning}"


def one_of(*names: str, of: Callable[[], Iterable[str]] | None = None) -> Rule:
    """One of these names, or of those that `of` gives when it is asked (a registry's)."""

    def known() -> list[str]:
        return [*names, *(of() if of else ())]

    def fault(key: str, value: Any) -> str:
        return f"{key}: {unknown('value', value if isinstance(value, str) else shown(value), filter(None, known()))}"

    return Rule("a name", lambda value: isinstance(value, str) and value in known(), fault)


def number(
    low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, below: float = math.inf
) -> Rule:
    """A finite number in [low, high], and in (above, below)."""
    return Rule(
        f"a number{_range(low, high, above, below)}",
        lambda value: _is_number(value) and low <= value <= high and above < value < below,
    )


def whole(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A whole number in [low, high]."""
    return Rule(
        f"a whole number{_range(low, high, -math.inf, math.inf)}",
        lambda value: type(value) is int and low <= value <= high,
    )


def each(rule: Rule, count: int | None = None) -> Rule:
    """A list of values that hold to `rule`, `count` of them."""
    meaning = f"a list of {f'{count} values' if count else 'values'}, each {rule.meaning}"

    def fits(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and count in (None, len(value))

    def fault(key: str, value: Any) -> str:
        if fits(value):
            return rule.told(key, next(one for one in value if not rule.holds(one)))
        return f"{key} is {shown(value)}; it must be {meaning}"

    return Rule(meaning, lambda value: fits(value) and all(map(rule.holds, value)), fault)


TEXT = Rule("a text without control characters", lambda value: isinstance(value, str) and is_plain(value))

SOUND = Rule("finite, below 2^63, and without control characters", lambda value: _sound(value))  # what has no rule
TEMPLATE = Rule('a sentence with {} for the class name, or ""', lambda value: value == "" or _has_place(value))
TEMPLATES = each(Rule("a sentence with {} for the class name", lambda value: _has_place(value)))


def _has_place(value: Any) -> bool:
    return isinstance(value, str) and "{}" in value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _range(low: float, high: float, above: float, below: float) -> str:
    """` in (0, 1]`, ` of at least 0`, ` above 0`; "" without limits."""
    if max(low, above) > -math.inf and min(high, below) < math.inf:
        start, end = ("(", above) if above >= low else ("[", low), (")", below) if below <= high else ("]", high)
        return f" in {start[0]}{start[1]:g}, {end[1]:g}{end[0]}"
    return f" above {above:g}" if above > -math.inf else f" of at least {low:g}" if low > -math.inf else ""


def _sound(value: Any) -> bool:
    """Whether a value of whatever kind can be computed with, written and shown."""
    if isinstance(value, (list, tuple)):
        return all(map(_sound, value))
    if isinstance(value, str):
        return is_plain(value)
    return not isinstance(value, (int, float)) or (math.isfinite(value) and abs(value) < 2**63)
