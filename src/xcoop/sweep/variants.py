"""The axis `variants:` of a grid file: config keys that change together, one choice after the other, not crossed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from xcoop.config.defaults import get_cfg
from xcoop.config.identity import concerns, flatten
from xcoop.config.merge import merge_pairs
from xcoop.config.plugins import trainer_names
from xcoop.runs.plan import KEY
from xcoop.utils.console import UserError
from xcoop.utils.suggest import shown, unknown

Variant = tuple[tuple[str, str], ...]  # (KEY, value) each; () is the method as it is
SHAPE = "`variants:` takes a list of mappings such as [{}, {TRAINER.XCOOP.LOCAL_WEIGHT: 0.0}]"


def read_variants(value: Any, where: str) -> tuple[Variant, ...]:
    """The variants of a grid file, in its order.

    Args:
        value: what stands below `variants:`.
        where: the file, in messages.

    Raises:
        UserError: no list of mappings, or a key or value that a run cannot have; the message names it.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: {SHAPE}, not {shown(value)}")
    found = tuple(_variant(one, f"{where}: variant {number}") for number, one in enumerate(value, 1))
    for number, one in enumerate(found):
        if one in found[:number]:
            first = found.index(one) + 1
            raise UserError(f"{where}: variants {first} and {number + 1} are the same ({spelled(one)}): keep one")
    return found


def require_apart(variants: Iterable[Variant], keys: Iterable[str], where: str) -> None:
    """UserError if a key belongs to a variant and is given by itself, too: which of the two were to win?"""
    given = set(keys)
    for one in variants:
        for key, value in one:
            if key in given:
                raise UserError(
                    f"{where}: {key} stands in a variant ({value}), and by itself, too; keep it in one place: in the "
                    "variants to change it with them alone, by itself to cross it with all of them"
                )


def require_readers(variants: Sequence[Variant], trainers: Sequence[str]) -> None:
    """UserError if a trainer would not see a key of a variant, and be run once more for nothing."""
    nodes = _defaults().TRAINER
    for trainer in trainer_names() if "all" in trainers else trainers:
        for one in variants:
            for key, _ in one:
                if not concerns(key, trainer, nodes):
                    raise UserError(
                        f"the variant {spelled(one)} changes nothing in {trainer}, which does not read {key}: "
                        f"give {trainer} a grid of its own"
                    )


def spelled(variant: Variant) -> str:
    """A variant as it stands in a grid file."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in variant) + "}"


def _variant(value: Any, where: str) -> Variant:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {SHAPE}; this one is {shown(value)}")
    for key, setting in value.items():
        if not KEY.fullmatch(str(key)):
            near = unknown("key", str(key), flatten(_defaults())).partition(" Known:")[0]
            raise UserError(f"{where}: {near} Config keys are written as A.B: value.")
        if setting is None or isinstance(setting, dict):
            raise UserError(f"{where}: {key} takes one value, not {shown(setting)}")
    pairs = tuple(sorted((str(key), str(setting)) for key, setting in value.items()))
    try:
        merge_pairs(_defaults().clone(), [word for pair in pairs for word in pair])
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return pairs


@cache
def _defaults() -> Any:
    return get_cfg()
