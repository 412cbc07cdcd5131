"""`xcoop list` and `xcoop version`: what can be named, and what computes."""

from __future__ import annotations

import argparse

from xcoop.utils.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Neither command takes any."""


def run(arguments: argparse.Namespace) -> int:
    """Prints it."""
    if arguments.command == "version":
        from xcoop.results.record import versions

        say(*(f"{name} {version}" for name, version in versions().items()))
        return 0
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.backbones import backbone_names
    from xcoop.concepts.bank import bank_names
    from xcoop.config.merge import config_names, method_names
    from xcoop.config.plugins import dataset_names, trainer_names

    say(f"concept banks: {', '.join(bank_names())}", f"backbones: {', '.join(backbone_names())}")
    say(f"datasets: {', '.join(config_names())}")
    for name in dataset_names():
        say(f"  {name}: {_summary(DATASET_REGISTRY.get(name))}")
    say("trainers and their configurations:")
    for name in trainer_names():
        say(f"  {name}: {_summary(TRAINER_REGISTRY.get(name))}", f"      {', '.join(method_names(name))}")
    return 0


def _summary(cls: type) -> str:
    """The first line of a class's documentation."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
