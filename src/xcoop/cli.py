"""The `xcoop` command. Each sub-command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from xcoop.commands import concepts as concepts_command
from xcoop.commands import data as data_command
from xcoop.commands import explain, results, run, show, sweep, table
from xcoop.commands import phantom as phantom_command
from xcoop.utils.console import Parser, guarded
from xcoop.version import __version__

LATER = {"phantom": phantom_command, "concepts": concepts_command}  # have commands that parse their own arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `xcoop` with the given arguments; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:  # has CoOp's own flags, and reads them itself
        from xcoop.runs.train import main as train

        return train(words[1:])
    group = LATER.get(words[0]) if words else None
    if group and words[1:2] and words[1] in group.LATER:
        return guarded(lambda: group.hand_over(words[1], words[2:]))
    arguments = _parse(words)
    return guarded(lambda: int(arguments.action(arguments)))


def parser() -> Parser:
    """All sub-commands."""
    top = Parser(
        prog="xcoop",
        description="Explainable, concept-guided prompt learning for medical images.",
        epilog="XCOOP_DEBUG=1 shows the traceback of an error. XCOOP_CACHE is the folder of derived files.",
    )
    top.add_argument("--version", action="version", version=f"xcoop {__version__}")
    commands = top.add_subparsers(title="commands", metavar="<command>", required=True, parser_class=Parser)
    run.add(commands)
    sweep.add(commands)
    commands.add_parser("train", help="one run, with the flags of CoOp's train.py (see xcoop train --help)")
    table.add(commands)
    results.add(commands)
    explain.add(commands)
    data_command.add(commands)
    phantom_command.add(commands)
    concepts_command.add(commands)
    show.add(commands)
    return top


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments; the free words of `run` may also stand after its options."""
    top = parser()
    arguments, rest = top.parse_known_args(words)
    if rest and hasattr(arguments, "words") and not any(map(_is_option, rest)):
        arguments.words += rest
    elif rest:
        getattr(arguments, "own_parser", top).error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _is_option(word: str) -> bool:
    """Not so a negative number, which is the value of a key."""
    return word.startswith("-") and not re.fullmatch(r"-\d*\.?\d+", word)


if __name__ == "__main__":
    sys.exit(main())
