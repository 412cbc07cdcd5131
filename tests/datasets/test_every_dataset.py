"""Walks the config files: every dataset reads its official layout, keeps the house's rules, and names its damages."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tree_tools
from dassl.data.datasets import Datum
from generated_trees import DAMAGES, LAYOUTS

from xcoop.concepts import load_bank
from xcoop.config.merge import config_names
from xcoop.config.plugins import dataset_names, plugin_path
from xcoop.data.about import About, MissingDatasetError, about
from xcoop.utils.console import DatasetError
from xcoop.utils.images import open_image

NAMES = config_names()
PHANTOMS = ("phantom", "phantom_chest")  # are drawn where they are missing, and read with the facts of their models
# Images in train, val and test as published, and where the images may lie below the root.
TOTALS = {
    "bloodmnist": (11959, 1712, 3421), "breastmnist": (546, 78, 156), "btmri": (2854, 1141, 1717),
    "busi_biomedcoop": (389, 155, 236), "chmnist": (2496, 1000, 1504), "covid_19": (10582, 4232, 6351),
    "ctkidney": (6221, 2487, 3738), "dermamnist": (7007, 1003, 2005), "dermamnist_biomedcoop": (7006, 1003, 2005),
    "derm7pt": (346, 161, 320), "isic2018": (10015, None, 1512), "kneexray": (5778, 826, 1656),
    "kvasir": (2000, 800, 1200), "lungcolon": (12500, 5000, 7500), "octmnist": (97477, 10832, 1000),
    "organamnist": (34561, 6491, 17778), "organcmnist": (12975, 2392, 8216), "organsmnist": (13932, 2452, 8827),
    "pathmnist": (89996, 10004, 7180), "pneumoniamnist": (4708, 524, 624), "retina": (2108, 841, 1268),
    "retinamnist": (1080, 120, 400), "tissuemnist": (165466, 23640, 47280),
}  # fmt: skip
PLACES = {
    "busi": ("BUSI", "busi/Dataset_BUSI_with_GT", "Dataset_BUSI_with_GT/Dataset_BUSI_with_GT"),
    "med_node": ("med_node", "mednode/complete_mednode_dataset", "complete_mednode_dataset"),
    "ph2": ("ph2", "PH2Dataset", "ph2/PH2Dataset"),
    "pneumonia": (
        *("Pneumonia/chest_xray", "pneumonia/chest_xray", "chest_xray", "Pneumonia"), "chest_xray/chest_xray",
    ),
}  # fmt: skip
PUBLISHED = [name for name in NAMES if plugin_path("configs", "datasets", "about", f"{name}.yaml").is_file()]


def load(name: str, root: Path | str, **dataset: object) -> Any:
    """The dataset below a root; one that is not looked for there is named by its path."""
    path = LAYOUTS[name].path
    return tree_tools.load(name, root, **({"PATH": str(Path(root, path))} if path else {}), **dataset)


def counts(items: list[Datum]) -> dict[str, int]:
    return dict(Counter(item.classname for item in sorted(items, key=lambda item: item.label)))


def facts(dataset: Any) -> About | None:
    """What is published of a dataset; nothing of a user's own."""
    return about(dataset.about_name) if dataset.about_name else None


@pytest.fixture(scope="module")
def made(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a tree that is only read, with a cache of its own."""
    place = tmp_path_factory.mktemp(name)
    LAYOUTS[name].make(place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XCOOP_CACHE", str(place / "cache"))
        patch.setenv("HOME", str(place / "home"))
        yield place / "data"


def test_every_config_file_is_tested_here() -> None:
    assert sorted(LAYOUTS) == NAMES == sorted(DAMAGES)
    assert {tree_tools.config(name, "").DATASET.NAME for name in NAMES} == set(dataset_names())


@pytest.mark.parametrize("name", NAMES, scope="module")
class TestEvery:
    def test_the_official_layout_is_read_and_no_path_content_or_patient_is_in_two_splits(
        self, name: str, made: Path
    ) -> None:
        dataset = load(name, made)
        splits = (dataset.train_x, dataset.val, dataset.test)
        assert tuple(counts(items) for items in splits) == LAYOUTS[name].counts
        assert dataset.classnames == list(dataset.class_names)
        assert Path(dataset.dataset_dir).is_dir()
        assert dataset.is_phantom is (name in PHANTOMS)
        assert re.fullmatch("[0-9a-f]{64}", dataset.split_hash)
        seen: set[object] = set()
        for items in splits:
            own: set[object] = {item.impath for item in items} | {open_image(item.impath).tobytes() for item in items}
            own |= {("patient", dataset.patients[item.impath]) for item in items} if dataset.patients else set()
            assert not seen & own
            seen |= own

    def test_few_shots(self, name: str, made: Path) -> None:
        full_train, full_val, full_test = LAYOUTS[name].counts
        for shots in (1, 2, 5):
            dataset = load(name, made, NUM_SHOTS=shots)
            assert counts(dataset.train_x) == {key: min(shots, number) for key, number in full_train.items()}
            assert counts(dataset.val) == {key: min(shots, 4, number) for key, number in full_val.items()}
            assert counts(dataset.test) == full_test
            (record,) = made.parent.rglob(f"shot_{shots}-seed_1.json")
            content = json.loads(record.read_text(encoding="utf-8"))
            assert (content["shots"], content["seed"], content["source"]) == (shots, 1, dataset.split_hash)
            written = [str(Path(dataset.dataset_dir) / path) for path, _, _ in content["train"]]
            assert written == [item.impath for item in dataset.train_x]

    def test_the_same_seed_gives_the_same_shots_from_a_copy(self, name: str, made: Path, tmp_path: Path) -> None:
        first = load(name, made, NUM_SHOTS=2, SEED=5)
        random.seed(3)
        shutil.copytree(made, tmp_path / "copy")
        second = load(name, tmp_path / "copy", NUM_SHOTS=2, SEED=5)
        for one, two in ((first.train_x, second.train_x), (first.val, second.val)):
            assert [Path(i.impath).relative_to(first.dataset_dir) for i in one] == [
                Path(i.impath).relative_to(second.dataset_dir) for i in two
            ]
        other, full = load(name, made, NUM_SHOTS=2, SEED=6), load(name, made)
        assert [item.impath for item in other.train_x] != [item.impath for item in first.train_x]
        assert other.split_hash == first.split_hash == full.split_hash
        assert [item.impath for item in other.test] == [item.impath for item in full.test]
        for part, of in (("train_x", full.train_x), ("val", full.val)):
            assert {item.impath for item in getattr(other, part)} <= {item.impath for item in of}

    def test_base_and_new_classes(self, name: str, made: Path) -> None:
        names = list(LAYOUTS[name].counts[0])
        half = math.ceil(len(names) / 2)
        for which, expected in (("base", names[:half]), ("new", names[half:])):
            dataset = load(name, made, SUBSAMPLE_CLASSES=which, NUM_SHOTS=2)
            assert dataset.classnames == expected
            tested = LAYOUTS[name].counts[2]
            assert counts(dataset.test) == {key: tested[key] for key in expected if key in tested}
            assert {item.label for item in dataset.test} <= set(range(len(expected)))

    def test_every_task_has_its_classes_and_their_concepts(self, name: str, made: Path) -> None:
        tasks = load(name, made).tasks
        for task, names in tasks.items():
            dataset = load(name, made, TASK=task)
            assert dataset.classnames == list(names)
            if published := facts(dataset):
                assert all(list(split) == list(names) for split in published.counts.get(task, {}).values())
            if dataset.concept_bank:  # a user's own classes have none
                assert list(load_bank(dataset.concept_bank).for_classes(names).classes) == list(names)
        task = next(iter(tasks))
        with pytest.raises(ValueError, match=rf"DATASET\.TASK.*Did you mean '{task}'"):
            load(name, made, TASK=task[:-1])

    def test_damage_is_named(self, name: str, root: Path) -> None:
        for number, (damage, message) in enumerate(DAMAGES[name]):
            place = root / str(number)
            damage(LAYOUTS[name].make(place))
            with pytest.raises((DatasetError, MissingDatasetError), match=f"(?s){message}"):
                load(name, place)

    def test_read_only_data_stay_untouched(self, name: str, root: Path) -> None:
        LAYOUTS[name].make(root)
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for folder in folders:
            folder.chmod(0o555)
        try:
            load(name, root, NUM_SHOTS=2)
        finally:
            for folder in folders:
                folder.chmod(0o755)
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before

    def test_relative_roots_links_and_strange_names(
        self, name: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        strange = tmp_path / "Daten für 画像 (1)"
        LAYOUTS[name].make(strange)
        (tmp_path / "link").symlink_to(strange)
        monkeypatch.chdir(tmp_path)
        for place in (strange, "link", "./link/../link"):
            dataset = load(name, place)
            assert counts(dataset.train_x) == LAYOUTS[name].counts[0]
            assert all(Path(item.impath).is_absolute() for item in dataset.train_x)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PHANTOMS])
def test_a_missing_dataset_ends_in_one_message_and_other_counts_than_published_are_said(
    name: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(MissingDatasetError) as caught:
        load(name, root)
    parts = [str(root), "DATASET.PATH"]
    if name in PUBLISHED:
        known = about(name)
        parts += [known.homepage, known.licence, known.citation, known.phantom, known.layout.splitlines()[0]]
    assert all(part in str(caught.value) for part in parts)
    LAYOUTS[name].make(root)
    dataset = load(name, root)
    stated = facts(dataset)
    published = stated.counts.get(dataset.task, {}) if stated else {}
    assert caplog.text.count("; published: ") == len(published)  # no tree is as large as its model
    assert dataset.changes_labels == (stated.changes_labels if stated else {})


@pytest.mark.parametrize("name", TOTALS)
def test_the_published_counts_add_up(name: str) -> None:
    counts = next(iter(about(name).counts.values()))
    stated = tree_tools.config(name, "").DATASET.CLASSES
    assert list(counts["train"]) == list(stated or counts["train"])
    for split, total in zip(("train", "val", "test"), TOTALS[name], strict=True):
        assert split not in counts or sum(counts[split].values()) == total


def test_the_published_counts_of_derm7pts_other_tasks_add_up() -> None:
    for task in ("mel-vs-rest", "five-groups"):
        assert [sum(own.values()) for own in about("derm7pt").counts[task].values()] == [413, 203, 395]


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in PLACES.items() for place in places])
def test_accepted_places_divide_alike(name: str, place: str, root: Path) -> None:
    folder = LAYOUTS[name].make(root / "somewhere")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, root / place)
    found, told = load(name, root), load(name, "nowhere", PATH=str(root / place))
    assert tuple(counts(items) for items in (found.train_x, found.val, found.test)) == LAYOUTS[name].counts
    assert [item.impath for item in found.test] == [item.impath for item in told.test]


@pytest.mark.parametrize(
    ("name", "below"),
    [("derm7pt", "derm7pt"), ("derm7pt", "derm7pt/release_v0"), ("kneexray", "KneeXray")],
)
def test_the_root_may_be_the_sets_own_folder(name: str, below: str, root: Path) -> None:
    LAYOUTS[name].make(root)
    tests = [load(name, root), load(name, root / below), load(name, "nowhere", PATH=str(root / below))]
    assert len({tuple(item.impath for item in dataset.test) for dataset in tests}) == 1
