"""The merged config of a run: defaults, dataset file, method file, flags, KEY VALUE pairs, in this order."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.config.identity import flatten
from xcoop.config.plugins import plugin_path
from xcoop.utils.console import UserError, names_like
from xcoop.utils.reading import read_yaml
from xcoop.utils.suggest import shown, unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

SUFFIXES = (".yaml", ".yml")
USUAL = "CoOp"  # whose configurations a trainer without any of its own runs with


def config_file(name: str, *folder: str) -> Path:
    """A configuration file, given by its path or by its short name.

    Args:
        name: a path, a path below `configs/` as CoOp users write it, or a short name such as "derm7pt".
        folder: where short names are looked up, below the plug-in folder `configs`, e.g. "trainers", "CoOp".

    Raises:
        UserError: there is no such file; the message has the nearest name.
    """
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        return _by_path(path)
    known = config_names(*folder)
    if name in known:
        return plugin_path("configs", *folder, f"{name}.yaml")
    kind = " ".join(["configuration of", folder[-1]]) if len(folder) > 1 else "dataset configuration"
    raise UserError(f"{unknown(kind, name, known)} A path to a YAML file is good, too.")


def config_names(*folder: str) -> list[str]:
    """The short names of the configuration files in a folder below `configs`, sorted."""
    return sorted(path.stem for path in plugin_path("configs", *folder).glob("*.yaml"))


def method_folder(trainer: str) -> tuple[str, str]:
    """Where a trainer's configurations lie, below `configs`: in its own folder, or CoOp's if it has none."""
    own = plugin_path("configs", "trainers", trainer).is_dir()
    return "trainers", trainer if own else USUAL


def _by_path(path: Path) -> Path:
    if path.is_file():
        return path
    if path.parts[:1] == ("configs",) and (installed := plugin_path(*path.parts)).is_file():
        return installed
    near = names_like(path.name, [other.name for other in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
    raise UserError(f"no configuration file {path}.{near}")


def merge_file(cfg: CfgNode, path: Path) -> None:
    """Merges a YAML file into `cfg`, in place.

    Raises:
        UserError: it is no YAML, or has an unknown key or a value of a wrong type; the message names all of it.
    """
    try:
        tree = read_yaml(path) or {}
    except ValueError as error:
        raise UserError(str(error)) from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(tree).__name__}")
    for key, value in flatten(tree).items():
        _set(cfg, key, _decoded(value), f"{path}: ")


def merge_pairs(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Merges `KEY VALUE KEY VALUE ...` into `cfg`, in place.

    Raises:
        UserError: an unknown key, a value of a wrong type, or a key without a value.
    """
    for key, value in as_pairs(pairs):
        _set(cfg, key, _decoded(value), "")


def as_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """`[KEY, VALUE, KEY, VALUE]` as pairs.

    Raises:
        UserError: a key without a value, or what looks like a flag.
    """
    for word in words:
        if word.startswith("--"):
            raise UserError(f"{word} stands among the KEY VALUE pairs; flags go before them")
        if "=" in word and word.partition("=")[0].isupper():
            raise UserError(
                f"write {word.replace('=', ' ', 1)!r} (a blank between key and value) instead of {shown(word)}"
            )
    if len(words) % 2:
        raise UserError(
            f"KEY VALUE pairs expected, but {shown(words[-1])} stands alone at the end of: {' '.join(words)}"
        )
    return list(zip(words[::2], words[1::2], strict=True))


def _set(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    *nodes, leaf = key.split(".")
    node: Any = cfg
    for name in nodes:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node:
        raise UserError(f"{where}unknown config key {key!r}.{_nearest_key(cfg, key)}")
    if isinstance(node[leaf], dict) and value is None:
        return  # a heading in a YAML file with nothing below it
    if isinstance(node[leaf], dict):
        inside = ", ".join(f"{key}.{name}" for name in node[leaf])
        raise UserError(f"{where}{key} is a group of keys, not a key. It holds {inside}")
    node[leaf] = _fitting(node[leaf], value, key, where)


def _nearest_key(cfg: CfgNode, key: str) -> str:
    """A hint: the key whose whole path is near, or one with the same last name."""
    keys = list(flatten(cfg))
    same = [other for other in keys if other.rpartition(".")[2].lower() == key.rpartition(".")[2].lower()]
    near = names_like(key, same) or names_like(key, keys)
    return near or (f" Did you mean {same[0]!r}?" if same else "")


def _decoded(value: Any) -> Any:
    """A text as the Python literal that it spells, as yacs does; else the text itself."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _fitting(old: Any, new: Any, key: str, where: str) -> Any:
    """`new` in the type of `old`: lists and tuples, whole and real numbers convert; anything else must agree."""
    if type(new) is type(old) or old is None:
        return new
    if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)):
        return type(old)(new)
    if isinstance(old, float) and type(new) is int:
        return float(new)
    if isinstance(old, bool) and isinstance(new, str) and new.lower() in ("true", "false"):
        return new.lower() == "true"
    if isinstance(old, str) and type(new) in (int, float):
        return str(new)  # a name made of digits
    raise UserError(f"{where}{key} takes {_kind(old)}, not {shown(new)}")


def _kind(value: Any) -> str:
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return f"{words.get(type(value), 'a list such as (1, 2)')} (its default is {shown(value)})"
