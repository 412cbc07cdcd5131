"""`xcoop path`: where a plug-in file of this installation lies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from xcoop.utils.console import UserError, names_like, say

KINDS = ("configs", "concept_banks", "datasets", "trainers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The argument of `xcoop path`."""
    parser.description = (
        "Prints the path of a plug-in file or folder of this installation, so that another checkout can use it: "
        "--dataset-config-file $(xcoop path configs/datasets/derm7pt.yaml)"
    )
    parser.add_argument("file", help=f"below {', '.join(KINDS)}; e.g. configs/trainers/XCoOp/vit_b16.yaml")


def run(arguments: argparse.Namespace) -> int:
    """Prints the path."""
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
