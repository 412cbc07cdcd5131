"""A concept bank to be filled in."""

from __future__ import annotations

import json
from collections.abc import Sequence


def skeleton(dataset: str, classnames: Sequence[str]) -> str:
    """The text of a bank with these classes; it is not read before its concepts and sources are filled in.

    Args:
        dataset: its name.
        classnames: in label order.
    """
    classes = "".join(
        f"  {_quoted(name)}:\n    - {{concept: , source: atlas}}  # what is seen; 4 to 10 lines\n"
        for name in classnames
    )
    return (
        f"name: {_quoted(dataset.lower())}\n"
        'version: "1"\n'
        f"dataset: {_quoted(dataset)}\n"
        'template: "a medical image of {class}, {concepts}."\n'
        "reviewed_by: []  # clinicians who approved it\n"
        f"sources:\n  atlas:   # the publication that names the concepts\nclasses:\n{classes}"
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
