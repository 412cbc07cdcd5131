"""`xcoop concepts`: checks concept banks, and makes them from concept labels or with a language model."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from xcoop.utils.console import Parser

# By name: the module that has the command's `add_arguments` and `run`, and what it does. They are imported only when
# they are called, since they need torch.
LATER = {
    "elicit": ("xcoop.commands.concepts_elicit", "ask a language model for a concept bank"),
    "check": ("xcoop.commands.concepts_check", "find what is wrong with concept banks"),
    "mine": ("xcoop.commands.concepts_mine", "make a concept bank from the concept labels of training images"),
}


def add(commands: Any) -> None:
    """Adds the command to `xcoop`."""
    concepts = commands.add_parser(
        "concepts",
        help="check concept banks, and make new ones",
        description="Concept banks: which visual concepts speak for a class.",
    )
    kinds = concepts.add_subparsers(title="commands", metavar="<command>", required=True)
    for name, (_, what) in LATER.items():
        kinds.add_parser(name, help=what, add_help=False)  # `hand_over` parses them


def hand_over(name: str, words: Sequence[str]) -> int:
    """Runs a command of `LATER` with its arguments; the exit code."""
    module, what = LATER[name]
    command = importlib.import_module(module)
    parser = Parser(prog=f"xcoop concepts {name}", description=f"{what[0].upper()}{what[1:]}.")
    command.add_arguments(parser)
    return int(command.run(parser.parse_intermixed_args(words)) or 0)
