"""Which augmentations keep the labels of a dataset; the others are left out of INPUT.TRANSFORMS, and that is said.

An augmentation keeps the labels if what it makes could have been taken of a patient of the same class. Each dataset
states it for each of `KINDS`, with the reason, in `configs/datasets/about/`; what hides a part (crops, shifts, cutout,
blur, noise) or changes the exposure keeps them everywhere. INPUT.TRANSFORMS, config.yaml and the config hash say what
was asked for; `transforms` in results.json says what was used, and what was left out for which reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yacs.config import CfgNode

KEY, AUTO = "DATASET.CHANGES_LABELS", "auto"
KINDS = {  # what is done to the image, and which transforms do it
    "mirror": ("random_flip",),
    "colour": ("colorjitter",),  # its hue and saturation
    "grey": ("randomgrayscale",),
    # These policies were searched for photographs; each inverts or solarises now and then.
    "inversion": (
        *("imagenet_policy", "cifar10_policy", "svhn_policy"),
        *("randaugment", "randaugment2", "randaugment_fixmatch"),
    ),
}
KIND_OF = {name: kind for kind, transforms in KINDS.items() for name in transforms}
FIXED = frozenset({"normalize", "instance_norm", "center_crop"})  # transforms that draw no random numbers

# A class with one of these words names a side. Of the others, two classes must differ in nothing else; short ones stand
# as words of their own.
SIDES = {"left", "right"}
OPPOSITES = (
    *(("left", "right"), ("links", "rechts"), ("linke", "rechte"), ("gauche", "droite"), ("gauche", "droit")),
    *(("izquierd", "derech"), ("sinistr", "destr"), ("sinister", "dexter"), ("左", "右")),
    *((r"\bl\b", "r"), (r"\blt\b", "rt"), (r"\bos\b", "od")),
)


def label_keeping(cfg: CfgNode, dataset: Any) -> tuple[list[str], dict[str, str]]:
    """The names of INPUT.TRANSFORMS that are used, and those that are left out, each with the reason.

    Args:
        cfg: DATASET.CHANGES_LABELS states the kinds that change labels; `auto` stands for what the dataset states.
        dataset: with `classnames`; one that states nothing changes its labels under no kind but, if classes are
            told apart by side, `mirror`.
    """
    why = changes(cfg, dataset)
    asked = list(cfg.INPUT.TRANSFORMS)
    left_out = {name: why[kind] for name in asked if (kind := _kind(name, cfg.INPUT)) in why}
    return [name for name in asked if name not in left_out], left_out


def changes(cfg: CfgNode, dataset: Any) -> dict[str, str]:
    """The kinds of augmentation that change labels, each with the reason; see `label_keeping`."""
    stated = cfg.DATASET.CHANGES_LABELS
    why = {kind: f"{KEY} says so" for kind in stated if kind != AUTO}
    if AUTO not in stated:
        return why
    names = getattr(dataset, "class_names", dataset.classnames)
    by_name = {"mirror": told} if (told := sided(names)) else {}
    return by_name | dict(getattr(dataset, "changes_labels", {})) | why


def _kind(name: str, node: CfgNode) -> str:
    """What a transform does; "" keeps all labels, as brightness and contrast alone do."""
    if name == "colorjitter" and not node.COLORJITTER_S and not node.COLORJITTER_H:
        return ""
    return KIND_OF.get(name, "")


def sided(names: Sequence[str]) -> str:
    """How class names tell left from right; "" if they do not."""
    spelt = {_words(name): name for name in names}
    for words, name in spelt.items():
        if SIDES & set(words.split()):
            return f"the class {name!r} names a side"
    for one, opposite in OPPOSITES:
        for words, name in spelt.items():
            other = spelt.get(re.sub(one, opposite, words), name)
            if other != name:
                return f"the classes {name!r} and {other!r} are told apart by their side"
    return ""


def _words(name: str) -> str:
    """The words of a class name in lower case; capitals within a word begin another."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return " ".join(re.findall(r"[^\W\d_]+|\d+", parted)).casefold()


def augmented(settings: Mapping[str, Any]) -> bool:
    """Whether a merged config asks for transforms that draw random numbers."""
    return not set(settings.get("INPUT", {}).get("TRANSFORMS", ())) <= FIXED
