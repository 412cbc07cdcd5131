"""Of two classes one is positive: stated by every shipped set, told by names, or chosen by the user."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tree_tools
from dassl.data.datasets import DATASET_REGISTRY
from generated_trees import LAYOUTS
from sklearn.metrics import average_precision_score

from xcoop.config.merge import config_hash
from xcoop.data.about import about
from xcoop.evaluation.metrics import check_asked, classification_metrics, positive_class

STATED = {
    "breastmnist": "malignant",
    "busi": "malignant tumor",
    "derm7pt": "melanoma",
    "iu_xray": "abnormal",
    "med_node": "melanoma",
    "ph2": "melanoma",
    "phantom": "melanoma",
    "phantom_chest": "pneumonia",
    "pneumonia": "pneumonia",
    "pneumoniamnist": "pneumonia",
    "skincon": "malignant skin lesion",
}


def test_every_shipped_task_of_two_classes_states_its_positive_class() -> None:
    found = {}
    for name in sorted(set(LAYOUTS) - {"folder"}):
        dataset = tree_tools.config(name, "").DATASET
        reader = DATASET_REGISTRY.get(dataset.NAME)
        tasks = {"": tuple(dataset.CLASSES)} if dataset.CLASSES else reader.tasks
        stated = about(dataset.SET.lower()).positive if dataset.SET else reader.positive_class
        assert bool(stated) == any(len(classes) == 2 for classes in tasks.values()), name
        for classes in tasks.values():
            if len(classes) == 2:
                found[name] = stated
                assert stated in classes
    assert found == STATED


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("cancer", "normal"), "cancer"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("abnormal", "normal"), "abnormal"),
        (("malignant", "normal or benign"), "malignant"),
        (("covid", "no finding"), "covid"),
        (("Melanoma", "NonMelanoma"), "Melanoma"),
        (("glaucoma", "non-glaucoma"), "glaucoma"),
        (("no_dr", "dr"), "dr"),
        (("parasitized", "uninfected"), "parasitized"),
        (("neg", "pos"), "pos"),
        (("Tumor", "healthy_control"), "Tumor"),
        (("case", "control"), "case"),
        (("a", "b", "normal"), ""),
        (("one",), ""),
    ],
)
def test_names_tell_the_negative_class(
    classes: tuple[str, ...], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert positive_class(classes) == expected
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("classes", [("melanoma", "nevus"), ("0", "1"), ("benign", "normal"), ("knot", "nonsense")])
def test_where_names_do_not_tell_the_last_is_taken_and_said(
    classes: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert positive_class(classes) == classes[1]
    assert f"{classes[1]!r} is taken" in caplog.text
    assert "DATASET.POSITIVE_CLASS" in caplog.text
    assert positive_class(classes, classes[0]) == classes[0]


def test_what_is_asked_must_be_one_of_two() -> None:
    check_asked("", ["a", "b", "c"])
    check_asked("nevus", ["melanoma", "nevus"])
    with pytest.raises(ValueError, match="Did you mean 'melanoma'"):
        check_asked("melanom", ["melanoma", "nevus"])
    with pytest.raises(ValueError, match="there are 3 classes"):
        check_asked("a", ["a", "b", "c"])


@pytest.mark.parametrize("positive", [0, 1])
def test_one_sided_metrics_are_of_the_positive_class(positive: int) -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.random(200)
    p = np.stack([1 - scores, scores], 1)
    found = classification_metrics(labels, p, positive)
    expected = average_precision_score(labels == positive, p[:, positive])
    assert found["average_precision"] == pytest.approx(expected)
    both = classification_metrics(labels, p), classification_metrics(1 - labels, p[:, ::-1])
    for name in ("average_precision", "sensitivity_at_95_specificity"):
        assert found[name] == pytest.approx(both[1 - positive][name])
        assert both[0][name] != both[1][name]
    same = found.keys() - {"average_precision", "sensitivity_at_95_specificity"}
    assert {name: found[name] for name in same} == {name: both[0][name] for name in same}


def test_runs_from_before_the_key_have_the_same_hash() -> None:
    cfg = tree_tools.config("phantom", "")
    cfg.TRAINER.NAME = "CoOp"
    without = cfg.clone()
    del without.DATASET["POSITIVE_CLASS"]
    chosen = cfg.clone()
    chosen.DATASET.POSITIVE_CLASS = "nevus"
    assert config_hash(cfg) == config_hash(without) != config_hash(chosen)
