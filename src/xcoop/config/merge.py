"""The merged config of a run: how it is made of files and KEY VALUE pairs, and the hash by which it is known.

Two runs with the same hash differ in nothing but the seed and the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from yacs.config import CfgNode

from xcoop.config import augmentation
from xcoop.config.plugins import plugin_path
from xcoop.engine.config import UNREAD, flatten
from xcoop.engine.imports import Facade, needs_dassl
from xcoop.utils.console import UserError, names_like, shown, unknown
from xcoop.utils.reading import read_yaml

SUFFIXES = (".yaml", ".yml")
USUAL = "CoOp"  # whose configurations a trainer without any of its own runs with
BASE = "_BASE_"  # in a YAML file: the file, or the list of files, that it builds on, by paths relative to its own
MOST_BASES = 20  # files that one may build on, directly or not

# Where things lie, what they are called, how fast and how talkative: none of these changes what a run computes.
MACHINE = (
    "DATALOADER.NUM_WORKERS",
    "DATASET.LABEL",
    "DATASET.ROOT",
    "FEATURES",
    "OUTPUT_DIR",
    "RESUME",
    "TEST.COMPUTE_CMAT",
    "TEST.PER_CLASS_RESULT",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.CUDA_GRAPH",
    "TRAIN.PRINT_FREQ",
    "TRAIN.RECOMPUTE_TOWER",
    "USE_CUDA",
    "VERBOSE",
    "VERSION",
    "WANDB",
)
# Seeds of one setting are averaged, so the seed is no part of the setting; each lies in a folder of its own.
SEED = "SEED"
# Keys that older runs lack, with the value that stands for what those did: a run has one hash, with them or without.
LATER = {
    "DATASET.POSITIVE_CLASS": "",
    "DATASET.TEST_FROM": "",
    "MODEL.BACKBONE.ACTIVATION": "",
    "MODEL.BACKBONE.HEAD_WIDTH": 0,
    "MODEL.BACKBONE.SOURCE": "",
}
# Of these only the file name counts; the content is recorded by its own hash.
FILES = ("DATASET.CONCEPT_BANK", "DATASET.PATH", "MODEL.BACKBONE.PATH", "MODEL.INIT_WEIGHTS")


# Which files a run's config is made of.


def config_file(name: str) -> Path:
    """A dataset's configuration file: a path, a path below `configs/`, or a short name such as "derm7pt".

    Raises:
        UserError: there is no such file; the message has the nearest name.
    """
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        return _by_path(path)
    if name in (known := config_names()):
        return plugin_path("configs", "datasets", f"{name}.yaml")
    raise UserError(f"{unknown('dataset configuration', name, known)} A path to a YAML file is good, too.")


def config_names(folder: str = "datasets") -> list[str]:
    """The short names of the configuration files in a folder below `configs`, sorted."""
    return sorted(path.stem for path in plugin_path("configs", folder).glob("*.yaml") if path.name[0] != "_")


def method_names(trainer: str) -> list[str]:
    """The short names of a trainer's configurations, sorted; of CoOp's for a trainer without any of its own."""
    return sorted(_method_configs(trainer))


def _method_configs(trainer: str) -> dict[str, list[Path]]:
    """The files of each of a trainer's configurations, by its short name."""
    folder = plugin_path("configs", "trainers", trainer)
    if not folder.is_dir():
        folder = plugin_path("configs", "trainers", USUAL)
    own = {path.stem: path for path in folder.glob("*.yaml")}
    clip = own.pop("clip", None)
    vit = own.pop("vit", clip)
    configs = {}
    for name in config_names("backbones"):
        if shared := clip if name.startswith("rn") else vit:  # all but OpenAI's ResNets are vision transformers
            configs[name] = [plugin_path("configs", "backbones", f"{name}.yaml"), shared]
    return configs | {name: [path] for name, path in own.items()}


def method_files(name: str, trainer: str) -> list[Path]:
    """What a configuration of a trainer consists of; later files win.

    A file of that name in the trainer's folder, below `configs/trainers`, is a configuration by itself. Any other one
    is the backbone of that name, from `configs/backbones`, with what the trainer states for all of them in `clip.yaml`
    (or, for vision transformers, which all but `rn*` are, in `vit.yaml` if it has one).

    Args:
        name: a path, a path such as `configs/trainers/CoOp/vit_b16.yaml`, or a short name such as "vit_b16".
        trainer: its name; for a path it does not count.

    Raises:
        UserError: there is no such configuration; the message has the nearest name.
    """
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        if path.is_file() or path.parts[:2] != ("configs", "trainers") or len(path.parts) != 4:
            return [_by_path(path)]
        trainer, name = path.parts[2], path.stem
    known = _method_configs(trainer)
    if name not in known:
        raise UserError(f"{unknown(f'configuration of {trainer}', name, known)} A path to a YAML file is good, too.")
    return known[name]


def _by_path(path: Path) -> Path:
    with suppress(
        FileNotFoundError, NotADirectoryError, ValueError
    ):  # any other error says itself what is wrong with the path
        if S_ISREG(path.stat().st_mode):
            return path
    if path.parts[:1] == ("configs",) and (installed := plugin_path(*path.parts)).is_file():
        return installed
    near = names_like(path.name, [other.name for other in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
    raise UserError(f"no configuration file {path}.{near}")


def read_config_tree(path: Path) -> dict[str, Any]:
    """The settings of a YAML file by their dotted keys, those of the files that it builds on included.

    Raises:
        UserError: it, or one of its bases, is no YAML file of keys and values; or its bases lead back to it.
    """

    def read(path: Path, above: list[Path]) -> dict[str, Any]:
        if path in above or len(above) > MOST_BASES:
            chain = " -> ".join(str(file) for file in [*above, path][:MOST_BASES])
            raise UserError(f"{BASE} leads in a circle: {chain}")
        try:
            tree = read_yaml(path) or {}
        except FileNotFoundError:
            raise UserError(f"{above[-1]}: {BASE} names {path}, which is not there") from None
        except ValueError as error:
            raise UserError(str(error)) from error
        if not isinstance(tree, dict):
            raise UserError(f"{path} must hold keys and values, not a {type(tree).__name__}")
        bases = tree.pop(BASE, [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise UserError(f"{path}: {BASE} must be a path or a list of paths, not {shown(bases)}")
        settings: dict[str, Any] = {}
        for base in bases:
            settings |= read(Path(os.path.normpath(path.parent / base)), [*above, path])
        return settings | flatten(tree)

    return read(path, [])


# Merging.


def merge_file(cfg: CfgNode, path: Path) -> None:
    """Merges a YAML file into `cfg`, in place.

    Raises:
        UserError: it is no YAML, or has an unknown key or a value of a wrong type; the message names all of it.
    """
    for key, value in read_config_tree(path).items():
        _set(cfg, key, value, f"{path}: ")


def merge_pairs(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Merges `KEY VALUE KEY VALUE ...` into `cfg`, in place.

    Raises:
        UserError: an unknown key, a value of a wrong type, or a key without a value.
    """
    for key, value in as_pairs(pairs):
        _set(cfg, key, value, "")


def as_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """`[KEY, VALUE, KEY, VALUE]` as pairs.

    Raises:
        UserError: a key without a value, or what looks like a flag.
    """
    for word in words:
        if word.startswith("--"):
            raise UserError(f"{word} stands among the KEY VALUE pairs; flags go before them")
        if "=" in word and word.partition("=")[0].isupper():
            pair = word.replace("=", " ", 1)
            raise UserError(f"write {pair!r} (a blank between key and value) instead of {shown(word)}")
    if len(words) % 2:
        raise UserError(
            f"KEY VALUE pairs expected, but {shown(words[-1])} stands alone at the end of: {' '.join(words)}"
        )
    return list(zip(words[::2], words[1::2], strict=True))


def _set(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    """Sets one key by its dotted name; `where` begins the message if that cannot be."""
    *nodes, leaf = key.split(".")
    node: Any = cfg
    for name in nodes:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node:
        # The key whose whole path is near, or one with the same last name.
        keys = list(flatten(cfg))
        same = [other for other in keys if other.rpartition(".")[2].lower() == leaf.lower()]
        near = names_like(key, same) or names_like(key, keys) or (f" Did you mean {same[0]!r}?" if same else "")
        raise UserError(f"{where}unknown config key {shown(key)}.{near}")
    if isinstance(node[leaf], dict):
        if value is None:
            return  # a heading in a YAML file with nothing below it
        inside = ", ".join(f"{key}.{name}" for name in node[leaf])
        raise UserError(f"{where}{key} is a group of keys, not a key. It holds {inside}")
    if isinstance(value, str):  # the Python literal that it spells, as yacs has it; else the text itself
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = literal_eval(value)
    if UNREAD.get(key, value) != value and isinstance(sys.modules.get("dassl"), Facade):
        raise UserError(f"{where}{needs_dassl(shown(key))}")  # it would change nothing
    node[leaf] = _fitting(node[leaf], value, key, where)


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
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    kind = kinds.get(type(old), "a list such as (1, 2)")
    raise UserError(f"{where}{key} takes {kind} (its default is {shown(old)}), not {shown(new)}")


# What makes a run what it is.


def settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What the hash covers: all leaves of `cfg` but those of the machine, the seed, and other trainers' nodes."""
    trainer, nodes = cfg["TRAINER"]["NAME"], cfg["TRAINER"]
    own = {key: value for key, value in (UNREAD | flatten(cfg)).items() if not _below(key, (*MACHINE, SEED))}
    own = {key: value for key, value in own.items() if concerns(key, trainer, nodes) and LATER.get(key, ...) != value}
    if not augmentation.augmented(cfg):
        own.pop(augmentation.KEY, None)  # then it has no say
    return {key: Path(value).name if key in FILES and value else value for key, value in own.items()}


def config_hash(cfg: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the merged config `cfg`, as far as it concerns the result; see `settings`."""
    text = json.dumps(settings(cfg), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each setting in which two merged configs differ, sorted by key."""
    a, b = settings(old), settings(new)
    return [
        f"{key}: {a.get(key, 'not set')!r} there, {b.get(key, 'not set')!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def read_config(path: Path) -> dict[str, Any]:
    """A merged config that a run has saved.

    Raises:
        ValueError: the file is no such config; the message names it.
    """
    try:
        saved = read_yaml(path)
        config_hash(saved)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not the saved config of a run ({error})") from error
    return dict(saved)


def _below(key: str, nodes: Iterable[str]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def concerns(key: str, trainer: str, nodes: Mapping[str, Any]) -> bool:
    """Whether a trainer can see a key: below TRAINER only its own node, the one spelled like it, counts."""
    section, _, rest = key.partition(".")
    node, _, leaf = rest.partition(".")
    if section != "TRAINER" or not leaf:
        return True
    spelled = {name.upper() for name in nodes}
    return node.upper() == trainer.upper() or trainer.upper() not in spelled
