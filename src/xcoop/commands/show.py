"""`xcoop list`, `xcoop path` and `xcoop version`: what is here, and where."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from xcoop.utils.console import UserError, names_like, say

KINDS = ("configs", "concept_banks", "datasets", "trainers")


def add(commands: Any) -> None:
    """Adds the commands to `xcoop`."""
    listing = commands.add_parser(
        "list",
        help="trainers, datasets, concept banks, backbones, configurations",
        description="Lists the trainers, datasets, concept banks, backbones and configurations that can be named.",
    )
    listing.set_defaults(action=show_list)
    path = commands.add_parser(
        "path",
        help="where a plug-in file lies, e.g. for a CoOp checkout's --config-file",
        description="Prints the path of a plug-in file or folder of this installation, so that another checkout can "
        "use it: --dataset-config-file $(xcoop path configs/datasets/derm7pt.yaml)",
    )
    path.add_argument("file", help=f"below {', '.join(KINDS)}; e.g. configs/trainers/XCoOp/vit_b16.yaml")
    path.set_defaults(action=show_path)
    version = commands.add_parser(
        "version",
        help="versions of xcoop, its engine and the packages that compute",
        description="Prints the versions of xcoop, its engine and the packages that compute.",
    )
    version.set_defaults(action=show_version)


def show_list(arguments: argparse.Namespace) -> int:
    """Prints what can be named."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.backbones import backbone_names
    from xcoop.config.merge import config_names, method_names
    from xcoop.config.plugins import dataset_names, plugin_path, trainer_names

    banks = sorted(path.stem for path in plugin_path("concept_banks").glob("*.yaml"))
    for title, names in (("concept banks", banks), ("backbones", backbone_names())):
        say(f"{title}: {', '.join(names)}")
    say(f"datasets: {', '.join(config_names())}")
    for name in dataset_names():
        say(f"  {name}: {_summary(DATASET_REGISTRY.get(name))}")
    say("trainers and their configurations:")
    for name in trainer_names():
        configs = ", ".join(method_names(name))
        say(f"  {name}: {_summary(TRAINER_REGISTRY.get(name))}", f"      {configs}")
    return 0


def show_path(arguments: argparse.Namespace) -> int:
    """Prints where a plug-in file lies."""
    from xcoop.config.plugins import plugin_path

    parts = Path(arguments.file).parts
    if not parts or parts[0] not in KINDS or ".." in parts:
        raise UserError(f"expected a path below {', '.join(KINDS)}, not {arguments.file!r}")
    path = _whole(*parts[2:]) if parts[:2] == ("configs", "trainers") and len(parts) == 4 else plugin_path(*parts)
    if not path.exists():
        near = names_like(path.name, [other.name for other in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise UserError(f"no file {arguments.file!r} in this installation.{near}")
    say(str(path))
    return 0


def _whole(trainer: str, file: str) -> Path:
    """A configuration of a trainer in one plain file, for programmes that know nothing of `_BASE_`; in the cache."""
    import yaml

    from xcoop.config.merge import method_files, read_config_tree
    from xcoop.utils.files import atomic_write_text, cache_dir

    files = method_files(f"configs/trainers/{trainer}/{file}", trainer)
    tree: dict[str, Any] = {}
    for settings in map(read_config_tree, files):
        for key, value in settings.items():
            *nodes, leaf = key.split(".")
            node = tree
            for name in nodes:
                node = node.setdefault(name, {})
            node[leaf] = value
    made = cache_dir() / "configs" / f"{trainer}_{file}"
    head = f"# Made by `xcoop path` of {', '.join(map(str, files))}; changes are lost.\n"
    atomic_write_text(made, head + yaml.safe_dump(tree, sort_keys=False))
    return made


def show_version(arguments: argparse.Namespace) -> int:
    """Prints versions."""
    from xcoop.results.provenance import versions

    say(*(f"{name} {version}" for name, version in versions().items()))
    return 0


def _summary(cls: type) -> str:
    """The first sentence of a class's documentation."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
