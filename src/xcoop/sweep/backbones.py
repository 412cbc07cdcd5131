"""Backbones by their own names: which configuration of a method runs on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from xcoop.config.merge import method_files, method_names, read_config_tree
from xcoop.utils.console import UserError
from xcoop.utils.suggest import unknown

Choice = tuple[str, tuple[str, ...]]  # a configuration ("" is the default one), and KEY VALUE pairs


def configurations(trainer: str, dataset: str, cfgs: Sequence[str], backbones: Sequence[str]) -> Iterator[Choice]:
    """The configurations of a trainer in a sweep.

    A backbone stands for the configuration that names it; one that none names is set in the given (or the default)
    configurations.

    Args:
        trainer: its name, or `all`.
        dataset: short name.
        cfgs: asked for; () for the default one.
        backbones: asked for; () for those of the configurations.

    Raises:
        UserError: an unknown backbone.
    """
    if not backbones:
        yield from ((cfg, ()) for cfg in cfgs or ("",))
        return
    from xcoop.backbones import backbone_names

    own = _by_backbone(_example(trainer))
    for name in backbones:
        if name in own and not cfgs:
            yield own[name], ()
        elif name in backbone_names():
            yield from ((cfg, ("MODEL.BACKBONE.NAME", name)) for cfg in cfgs or ("",))
        else:
            raise UserError(unknown("backbone", name, backbone_names()))


def _example(trainer: str) -> str:
    """A trainer whose configurations stand for those of all."""
    if trainer != "all":
        return trainer
    from xcoop.config.plugins import trainer_names

    return max(trainer_names(), key=lambda name: len(method_names(name)))


@cache
def _by_backbone(trainer: str) -> dict[str, str]:
    """Backbone name -> the short name of the (first) configuration that has it."""
    found: dict[str, str] = {}
    for cfg in method_names(trainer):
        for path in method_files(cfg, trainer):
            if name := read_config_tree(path).get("MODEL.BACKBONE.NAME"):
                found.setdefault(str(name), cfg)
    return found
