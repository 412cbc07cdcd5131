"""The `xcoop` command: a table of sub-commands, each a module that is imported when it is called, so `--help` is quick.

The module of a command has two functions: `add_arguments(parser)` and `run(arguments)`, which returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from xcoop.utils.console import Parser, guarded
from xcoop.version import __version__

# By the words that call them: the module, and what it does. `train` takes CoOp's own flags, and parses them itself.
COMMANDS = {
    "run": ("commands.run", "train and test all seeds of a method on a dataset, and print the table"),
    "sweep": ("commands.sweep", "many runs: datasets x methods x shots x seeds, on all GPUs or cores"),
    "train": ("runs.train", "one run, with the flags of CoOp's train.py (see xcoop train --help)"),
    "table": ("commands.table", "print the results of a dataset"),
    "results": (
        "commands.results",
        "tables, curves and comparisons of everything that was run, on one page and as files",
    ),
    "explain": ("commands.explain", "a page that explains a finished run, or its view of some images"),
    "data": ("commands.data", "datasets: what there is, how to get it, and whether it is whole"),
    "backbones": ("commands.backbones", "backbones: what there is, under which terms, and whether one works here"),
    "phantom derm7pt": ("phantom.layouts", "draw dermoscopic images in the layout of Derm7pt"),
    "phantom pneumonia": ("phantom.layouts", "draw chest radiographs in the layout of the pneumonia archive"),
    "phantom pretrain": ("phantom.pretrain", "train the phantom backbone"),
    "phantom probe": ("phantom.probe", "measure how well a backbone knows the phantom's concepts"),
    "concepts elicit": ("commands.concepts_elicit", "ask a language model for a concept bank"),
    "concepts check": ("concepts.lint", "find what is wrong with concept banks"),
    "concepts mine": ("commands.concepts_mine", "make a concept bank from the concept labels of training images"),
    "list": ("commands.show", "trainers, datasets, concept banks, backbones, configurations"),
    "path": ("commands.path", "where a plug-in file lies, e.g. for a CoOp checkout's --config-file"),
    "version": ("commands.show", "versions of xcoop, its engine and the packages that compute"),
}
GROUPS = {
    "phantom": "synthetic datasets with known concepts, and the small CLIP that goes with them; nothing measured on "
    "them is a clinical result",
    "concepts": "concept banks: which visual concepts speak for a class; check them, and make new ones",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `xcoop` with the given arguments; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:
        from xcoop.runs.train import main as train

        return train(words[1:])
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), "")
    if not name:
        parser().parse_args(words)  # ends here: with the help, the version, or what is wrong
        parser().error("a command is needed")
    return guarded(lambda: int(module_of(name).run(parse(name, words[len(name.split()) :]))))


def parser() -> Parser:
    """The parser of all that comes before a command's own arguments."""
    top = Parser(
        prog="xcoop",
        description="Explainable, concept-guided prompt learning for medical images.",
        epilog="XCOOP_DEBUG=1 shows the traceback of an error. XCOOP_CACHE is the folder of derived files.",
    )
    top.add_argument("--version", action="version", version=f"xcoop {__version__}")
    groups = {"": top.add_subparsers(title="commands", metavar="<command>", required=True)}
    for name, (_, what) in COMMANDS.items():
        group, _, own = name.rpartition(" ")
        if group not in groups:
            one = groups[""].add_parser(group, help=GROUPS[group], description=_sentence(GROUPS[group]))
            groups[group] = one.add_subparsers(title="commands", metavar="<command>", required=True)
        groups[group].add_parser(own, help=what, add_help=False)
    return top


def module_of(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"xcoop.{COMMANDS[name][0]}")


def parse(name: str, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command; those that are called `words` may also stand after its options."""
    command = Parser(prog=f"xcoop {name}", description=_sentence(COMMANDS[name][1]))
    command.set_defaults(command=name, own_parser=command)
    module_of(name).add_arguments(command)
    arguments, rest = command.parse_known_args(words)
    if "words" in arguments and not any(map(_is_option, rest)):
        arguments.words += rest
    elif rest:
        arguments.own_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _is_option(word: str) -> bool:
    """Not so a negative number, which is the value of a key."""
    return word.startswith("-") and not re.fullmatch(r"-\d*\.?\d+", word)


def _sentence(what: str) -> str:
    return f"{what[0].upper()}{what[1:]}."


if __name__ == "__main__":
    sys.exit(main())
