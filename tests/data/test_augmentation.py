"""Which augmentations keep labels: every dataset states it, class names tell sides, and the user has the last word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dassl.data.datasets import DATASET_REGISTRY

from xcoop.config import plugins
from xcoop.config.augmentation import FIXED, KIND_OF, KINDS, label_keeping, sided
from xcoop.config.merge import config_hash, settings
from xcoop.config.plugins import check_settings, dataset_names, get_cfg, plugin_path
from xcoop.data.about import about
from xcoop.engine.parts import OFFERED, REFUSED

CONFIGS = sorted(path.stem for path in plugin_path("configs", "datasets").glob("*.yaml"))
OWN = {"Folder"}  # the user's images: what the user asks for, unless class names tell sides
LEAVE_FLIPS_OUT = {"covid_19", "ctkidney", "iu_xray", "organamnist", "organcmnist", "organsmnist", "phantom_chest",
                   "pneumonia", "pneumoniamnist"}  # fmt: skip
COLOURFUL = {"bloodmnist", "derm7pt", "dermamnist", "dermamnist_biomedcoop", "isic2018", "kvasir", "med_node",
             "ph2", "phantom", "retina", "retinamnist", "skincon"}  # fmt: skip


def facts_of(config: str) -> Any:
    """The facts that the dataset of a configuration states; None for the user's own images."""
    node = yaml.safe_load(plugin_path("configs", "datasets", f"{config}.yaml").read_text(encoding="utf-8"))["DATASET"]
    name = str(node.get("SET", "")).lower() or plugins._datasets[node["NAME"]].about_name
    return about(name) if name else None


def cfg_of(*pairs: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(list(pairs))
    return cfg


def kept(names: list[str], *pairs: Any, stated: dict[str, str] | None = None, asked: Any = OFFERED) -> list[str]:
    dataset = SimpleNamespace(classnames=names, changes_labels=stated or {})
    return label_keeping(cfg_of("INPUT.TRANSFORMS", list(asked), *pairs), dataset)[0]


def test_every_registered_dataset_has_a_configuration_of_this_table() -> None:
    named = {yaml.safe_load(plugin_path("configs", "datasets", f"{name}.yaml").read_text())["DATASET"]["NAME"]
             for name in CONFIGS}  # fmt: skip
    assert named == set(dataset_names()) <= set(DATASET_REGISTRY.registered_names())


@pytest.mark.parametrize("config", CONFIGS)
def test_every_dataset_states_each_kind_with_a_reason(config: str) -> None:
    facts = facts_of(config)
    if facts is None:
        assert config.lower() in {name.lower() for name in OWN}
        return
    assert facts.keeps_labels.keys() | facts.changes_labels.keys() == KINDS.keys()
    assert not facts.keeps_labels.keys() & facts.changes_labels.keys()
    assert all(len(why.split()) > 2 for why in (*facts.keeps_labels.values(), *facts.changes_labels.values()))
    assert ("mirror" in facts.changes_labels) == (config in LEAVE_FLIPS_OUT)
    assert ("colour" in facts.changes_labels) == (config in COLOURFUL)
    assert "grey" in facts.changes_labels or "colour" in facts.keeps_labels, "whoever loses all colour loses the hue"
    assert "inversion" in facts.changes_labels


def test_every_transform_is_of_one_kind_or_keeps_all_labels() -> None:
    harmless = {"random_resized_crop", "random_crop", "random_translation", "cutout", "gaussian_noise", "gaussian_blur"}
    assert set(OFFERED) | set(REFUSED) == KIND_OF.keys() | FIXED | harmless


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["left kidney", "right kidney", "liver"], "'left kidney'"),
        (["Lung_Left", "heart"], "'Lung_Left'"),
        (["leftLung", "liver"], "'leftLung'"),
        (["RIGHT-femur", "other"], "'RIGHT-femur'"),
        (["leftkidney", "rightkidney"], "'leftkidney' and 'rightkidney'"),
        (["kidney_L", "kidney_R"], "'kidney_L' and 'kidney_R'"),
        (["OD", "OS"], "'OS' and 'OD'"),
        (["rt hip", "lt hip"], "'lt hip' and 'rt hip'"),
        (["Niere links", "Niere rechts"], "'Niere links' and 'Niere rechts'"),
        (["rein gauche", "rein droit"], "'rein gauche' and 'rein droit'"),
        (["左肾", "右肾"], "'左肾' and '右肾'"),
        (["bright spot", "dark spot"], ""),
        (["upright", "supine"], ""),
        (["l cell", "lymphocyte"], ""),
        (["OS", "overall"], ""),
        (["0", "1"], ""),
        (["a", "r"], ""),
        (["gauche", "plan"], ""),
    ],
)
def test_class_names_tell_sides(names: list[str], told: str) -> None:
    assert sided(names).startswith(f"the class{'es' if ' and ' in told else ''} {told}" if told else "")
    assert bool(sided(names)) == bool(told)
    assert ("random_flip" not in kept(names)) == bool(told)


def test_what_a_dataset_states_is_left_out_with_its_reason_and_nothing_else() -> None:
    dataset = SimpleNamespace(classnames=["a", "b"], changes_labels={"mirror": "the heart", "inversion": "the air"})
    used, left_out = label_keeping(cfg_of("INPUT.TRANSFORMS", list(OFFERED)), dataset)
    policies = set(KINDS["inversion"]) - set(REFUSED)
    assert left_out == {"random_flip": "the heart"} | dict.fromkeys(policies, "the air")
    assert used == [name for name in OFFERED if name not in left_out]


def test_a_dataset_that_states_nothing_keeps_all() -> None:
    dataset = SimpleNamespace(classnames=["a", "b"])  # one of Dassl's own, say
    assert label_keeping(cfg_of("INPUT.TRANSFORMS", list(OFFERED)), dataset) == (list(OFFERED), {})


@pytest.mark.parametrize(
    ("key", "flips", "jitters"),
    [(["auto"], False, True), ([], True, True), (["colour"], True, False), (["auto", "colour"], False, False)],
)
def test_the_user_has_the_last_word(key: list[str], flips: bool, jitters: bool) -> None:
    for names, stated in ((["left", "right"], {}), (["a", "b"], {"mirror": "x"})):
        used = kept(names, "DATASET.CHANGES_LABELS", key, stated=stated)
        assert ("random_flip" in used, "colorjitter" in used) == (flips, jitters)


def test_brightness_and_contrast_alone_keep_what_a_turned_hue_does_not() -> None:
    stated = {"colour": "x"}
    assert "colorjitter" not in kept(["a", "b"], stated=stated)
    assert "colorjitter" not in kept(["a", "b"], "INPUT.COLORJITTER_H", 0.0, stated=stated)
    assert "colorjitter" in kept(["a", "b"], "INPUT.COLORJITTER_H", 0.0, "INPUT.COLORJITTER_S", 0.0, stated=stated)


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    check_settings(cfg_of("DATASET.CHANGES_LABELS", ["auto", *KINDS]))
    with pytest.raises(ValueError, match=r"CHANGES_LABELS: Unknown value 'miror'\. Did you mean 'mirror'\?"):
        check_settings(cfg_of("DATASET.CHANGES_LABELS", ["miror"]))


def test_the_hash_tells_what_was_asked_for_and_is_that_of_old_runs_without_augmentation() -> None:
    plain, other = cfg_of(), cfg_of("DATASET.CHANGES_LABELS", [])
    assert config_hash(plain) == config_hash(other)
    assert "DATASET.CHANGES_LABELS" not in settings(plain)
    flip = ("INPUT.TRANSFORMS", ["random_flip", "normalize"])
    assert config_hash(cfg_of(*flip)) != config_hash(cfg_of(*flip, "DATASET.CHANGES_LABELS", []))
