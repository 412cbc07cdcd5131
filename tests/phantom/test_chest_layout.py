"""The written archive: layout, names, patients, determinism, and that it is whole or absent."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from xcoop.phantom import chest_layout
from xcoop.phantom.chest_layout import write_chest
from xcoop.phantom.chest_tables import CONCEPTS, best_normal_or_pneumonia
from xcoop.phantom.folders import draw_cases

CASES, SEED, SIZE = 60, 3, 64


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chest") / "Pneumonia"
    return folder, write_chest(folder, CASES, SEED, progress=False, size=SIZE)


def images(folder):
    return sorted((folder / "chest_xray").rglob("*.jpeg"))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_layout_and_counts(written):
    folder, summary = written
    assert sorted(path.name for path in folder.iterdir()) == ["chest_xray", "chest_xray_masks", "phantom.json"]
    assert len(images(folder)) == CASES == summary.images
    for split, groups in summary.counts.items():
        place = folder / "chest_xray" / split
        assert len(list((place / "NORMAL").iterdir())) == groups["normal"]
        assert len(list((place / "PNEUMONIA").iterdir())) == groups["bacterial"] + groups["viral"]
    assert summary.counts["val"] == {"normal": 8, "bacterial": 8, "viral": 0}


def test_the_archives_own_number_gives_its_own_counts():
    counts = chest_layout._counts(5856)
    assert counts["train"] == {"normal": 1341, "bacterial": 2530, "viral": 1345}
    assert counts["test"] == {"normal": 234, "bacterial": 242, "viral": 148}


@pytest.mark.parametrize("cases", [40, 41, 57, 100, 999])
def test_counts_add_up_and_leave_no_group_out(cases):
    counts = chest_layout._counts(cases)
    assert sum(sum(groups.values()) for groups in counts.values()) == cases
    assert all(min(counts[split].values()) >= 1 for split in ("train", "test"))


def test_names(written):
    for path in images(written[0]):
        if path.parent.name == "NORMAL":
            assert re.fullmatch(r"(NORMAL2-)?IM-\d{4}-\d{4}\.jpeg", path.name)
        else:
            assert re.fullmatch(r"person\d+_(bacteria|virus)_\d+\.jpeg", path.name)


def test_images_are_grey_jpegs_of_the_size(written):
    for path in images(written[0])[:5]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "L", (SIZE, SIZE))


def patients(folder):
    with (folder / "chest_xray_masks" / "concepts.csv").open() as file:
        return list(csv.DictReader(file))


def test_no_patient_in_two_splits_and_some_with_several_images(written):
    rows = patients(written[0])
    splits = {}
    for row in rows:
        splits.setdefault(row["patient"], set()).add(row["split"])
        assert int(re.search(r"(?:person|IM-)(\d+)", row["image"])[1]) == int(row["patient"])
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) < len(rows)


def test_masks_match_the_truth(written):
    folder, _ = written
    for row in patients(folder):
        place = folder / "chest_xray_masks" / row["split"] / row["image"].removesuffix(".jpeg")
        found = {path.stem for path in place.glob("*.png")}
        assert found == {concept for concept in CONCEPTS if row[concept] != "absent"} | {"lungs"}
        for path in place.glob("*.png"):
            mask = np.asarray(Image.open(path))
            assert mask.shape == (SIZE, SIZE)
            assert set(np.unique(mask)) == {0, 255}


def test_card(written):
    folder, summary = written
    card = json.loads((folder / "phantom.json").read_text())
    assert card["phantom"].startswith("not clinical")
    assert (card["cases"], card["seed"], card["version"]) == (CASES, SEED, chest_layout.VERSION)
    assert card["best_reachable"]["accuracy"] == summary.best.accuracy
    assert summary.best == best_normal_or_pneumonia(summary.counts["test"])


def test_equal_seeds_give_equal_files_whatever_the_number_of_workers(written, tmp_path):
    write_chest(tmp_path / "two", CASES, SEED, progress=False, size=SIZE, workers=2)
    assert contents(tmp_path / "two") == contents(written[0])
    write_chest(tmp_path / "other", 40, SEED + 1, progress=False, size=SIZE)
    assert images(tmp_path / "other")[0].read_bytes() not in contents(written[0]).values()


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="old exists already"):
        write_chest(tmp_path / "old", 40, 0, progress=False, size=SIZE)
    assert contents(tmp_path) == {"old/mine.txt": b"mine"}


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    draw, calls = chest_layout.draw_chest, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 10:
            raise OSError("no space left")
        return draw(*args, **kwargs)

    monkeypatch.setattr(chest_layout, "draw_chest", failing)
    with pytest.raises(OSError, match="no space"):
        write_chest(tmp_path / "new", 40, 0, progress=False, size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("cases", "seed", "words"), [(39, 0, "at least 40"), (40, -1, "0 or more")])
def test_bad_numbers_are_refused(tmp_path, cases, seed, words):
    with pytest.raises(ValueError, match=words):
        write_chest(tmp_path / "new", cases, seed, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_results_come_in_the_order_of_the_jobs():
    jobs = list(range(30))
    assert draw_cases(abs, jobs, progress=False) == jobs
    assert draw_cases(abs, jobs, progress=False, workers=2) == jobs


def test_an_error_in_a_worker_comes_through():
    with pytest.raises(TypeError):
        draw_cases(abs, [1, "a"], progress=False, workers=2)


def test_a_folder_that_vanished_while_it_was_filled_does_not_come_back(tmp_path):
    case = chest_layout._Case(0, 0, 1, "train", "normal", "IM-0001-0001", 64)
    with pytest.raises(FileNotFoundError):
        chest_layout._write_case((case, str(tmp_path / "gone")))
    assert list(tmp_path.iterdir()) == []
