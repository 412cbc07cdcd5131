"""How far the explanations can be trusted: each metric with its direction, beside what knows-nothing controls give."""

from __future__ import annotations

from xcoop.explain.page.card import BETTER
from xcoop.explain.schema import Control, Trust
from xcoop.page.markup import interval, number, table, text

HEAD = ["Metric", "Better", "Value [95 % interval]", "Controls [95 % interval]", "Reading", "Images"]


def trust_table(metrics: list[Trust]) -> str:
    """The table as HTML; a plain sentence if nothing was measured."""
    if not metrics:
        return "<p>Nothing was measured: no map below has been tested, so none can be trusted.</p>"
    return table("How far the maps can be trusted, over all images", HEAD, map(_row, metrics))


def reading(metric: Trust) -> str:
    """What a metric says against its controls, in words.

    "clear of" means that the two 95 % intervals do not touch (stricter than a test at 5 %); a control without an
    interval stands for its value.
    """
    if not metric["controls"]:
        return "no control"
    if metric["value"] is None or metric["low"] is None or metric["high"] is None:
        return "no interval"
    sides = {control["name"]: _side(metric, control) for control in metric["controls"]}
    worse = [name for name, side in sides.items() if side == "worse"]
    unclear = [name for name, side in sides.items() if side == "unclear"]
    if worse:
        return f"worse than: {', '.join(worse)}"
    if unclear:
        return f"not clear of: {', '.join(unclear)}"
    return "better than its controls"


def _side(metric: Trust, control: Control) -> str:
    low, high = _ends(control)
    if low is None or high is None or metric["low"] is None or metric["high"] is None:
        return "unclear"
    above, below = metric["low"] > high, metric["high"] < low
    if not above and not below:
        return "unclear"
    return "better" if above == (metric["direction"] == "higher") else "worse"


def _ends(control: Control) -> tuple[float | None, float | None]:
    if control["low"] is None or control["high"] is None:
        return control["value"], control["value"]
    return control["low"], control["high"]


def _row(metric: Trust) -> list[str]:
    note = f'<span class="note">{text(metric["note"])}</span>' if metric["note"] else ""
    unit = f" {text(metric['unit'])}" if metric["unit"] else ""
    sign = "\N{UPWARDS ARROW}" if metric["direction"] == "higher" else "\N{DOWNWARDS ARROW}"
    controls = "<br>".join(
        f'{text(one["name"])}: <span class="whole">{_value(one["value"], one["low"], one["high"])}</span>'
        for one in metric["controls"]
    )
    return [
        f"{text(metric['metric'])}{note}",
        f'<span aria-hidden="true">{sign}</span> {BETTER[metric["direction"]]}',
        f"<strong>{number(metric['value'])}</strong>{unit} {interval(metric['low'], metric['high'])}",
        controls or "none",
        text(reading(metric)),
        str(metric["n"]),
    ]


def _value(value: float | None, low: float | None, high: float | None) -> str:
    return f"{number(value)} {interval(low, high)}".strip()
