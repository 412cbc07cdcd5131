"""PH2: its table, its tasks, and its criteria in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree_tools import load
from trees_ph2 import MELANOMA, ph2

from xcoop.datasets.ph2 import CRITERIA


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def test_the_atypical_nevi_are_apart_in_three_classes(root: Path) -> None:
    ph2(root)
    dataset = load("ph2", root, TASK="three-classes")
    items = [item for part in (dataset.train_x, dataset.val, dataset.test) for item in part]
    assert {Path(item.impath).stem: item.label for item in items} == {f"IMD{300 + n}": n // 10 for n in range(30)}


def test_the_criteria_are_told_in_words(root: Path) -> None:
    ph2(root)
    dataset = load("ph2", root)
    labels = dataset.concept_labels(Path(dataset.dataset_dir))
    assert len(labels) == 30
    assert labels[MELANOMA] == {
        "asymmetry": "fully asymmetric",
        "pigment_network": "atypical",
        "dots_and_globules": "atypical",
        "streaks": "present",
        "regression_areas": "present",
        "blue_whitish_veil": "present",
    }
    assert {tuple(own) for own in labels.values()} == {tuple(CRITERIA)}
    items = [item for part in (dataset.train_x, dataset.val, dataset.test) for item in part]
    assert {Path(item.impath).relative_to(dataset.dataset_dir).as_posix() for item in items} == set(labels)


@pytest.mark.parametrize("place", ["ph2", "PH2Dataset", "ph2/PH2Dataset"])
def test_accepted_places(root: Path, place: str) -> None:
    folder = ph2(root / "somewhere")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    folder.rename(root / place)
    assert len(load("ph2", root).test) == 9
