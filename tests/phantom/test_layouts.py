"""Phantoms on disk: the layouts of Derm7pt and of the pneumonia archive, whole or absent, the same whoever draws."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from xcoop.phantom import layouts
from xcoop.phantom.drawing import draw_cases
from xcoop.phantom.layouts import COLUMNS, VERSION, write_chest, write_derm7pt
from xcoop.phantom.tables import CHEST_TABLE, DERM_TABLE, best_reachable, seven_point_score

OFFICIAL_COLUMNS = [
    *("case_num", "diagnosis", "seven_point_score"),
    *("pigment_network", "streaks", "pigmentation", "regression_structures", "dots_and_globules"),
    *("blue_whitish_veil", "vascular_structures"),
    *("level_of_diagnostic_difficulty", "elevation", "location", "sex", "management"),
    *("clinic", "derm", "case_id", "notes"),
]
CASES, SEED, SIZE = 60, 3, 64  # of the chests
LAYOUTS = {"derm": (write_derm7pt, 12, 64), "chest": (write_chest, 40, 48)}


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def derm(tmp_path_factory):
    out = tmp_path_factory.mktemp("derm") / "set"
    return out, write_derm7pt(out, 40, 5, mix="real", size=64)


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    out = tmp_path_factory.mktemp("chest") / "Pneumonia"
    return out, write_chest(out, CASES, SEED, size=SIZE)


def test_meta_has_the_official_columns_and_values(derm):
    rows = read(derm[0] / "release_v0/meta/meta.csv")
    assert list(COLUMNS) == OFFICIAL_COLUMNS == list(rows[0])
    assert [int(row["case_num"]) for row in rows] == list(range(1, 41))
    assert len({row["case_id"] for row in rows}) == 40
    for row in rows:
        assert all(row[concept] in values for concept, values in DERM_TABLE.values.items())
        assert int(row["seven_point_score"]) == seven_point_score(row)


def test_index_files_share_out_all_rows(derm):
    out, summary = derm
    splits = {s: [int(r["indexes"]) for r in read(out / f"release_v0/meta/{s}_indexes.csv")] for s in summary.counts}
    assert sorted(index for rows in splits.values() for index in rows) == list(range(40))
    assert {s: len(rows) for s, rows in splits.items()} == {s: sum(c.values()) for s, c in summary.counts.items()}
    assert len(splits["valid"]) < len(splits["test"]) < 40 / 2


def test_balanced_is_half_melanoma_in_every_split(tmp_path):
    summary = write_derm7pt(tmp_path / "set", 24, 0, size=48)
    # 12 of each group times 413, 203 and 395 of 1,011: 4.90, 2.41 and 4.69, by the largest remainders.
    assert summary.counts == {s: {"MEL": n, "NEV": n} for s, n in (("train", 5), ("valid", 2), ("test", 5))}
    rows = read(tmp_path / "set/release_v0/meta/meta.csv")
    assert sum("melanoma" in row["diagnosis"] for row in rows) == 12
    assert sum("nevus" in row["diagnosis"] for row in rows) == 12


def test_dermoscopic_images_and_masks_are_there(derm):
    release = derm[0] / "release_v0"
    stems = set()
    for row in read(release / "meta/meta.csv"):
        with Image.open(release / "images" / row["derm"]) as image:
            assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "JPEG")
        with Image.open(release / "images" / row["clinic"]) as image:
            assert image.mode == "RGB"
        stem = (release / "images" / row["derm"]).stem
        stems |= {stem.lower(), row["clinic"].rpartition("/")[2].partition(".")[0].lower()}
        masks = {path.stem: np.asarray(Image.open(path)) for path in (release / "masks" / stem).iterdir()}
        assert set(masks) == {c for c in DERM_TABLE.values if row[c] != "absent"} | {"lesion"}
        assert all(mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255} for mask in masks.values())
    assert len(stems) == 80


def test_the_archives_folders_names_and_counts(chest):
    folder, summary = chest
    assert sorted(path.name for path in folder.iterdir()) == ["chest_xray", "chest_xray_masks", "phantom.json"]
    names = {"NORMAL": r"(NORMAL2-)?IM-\d{4}-\d{4}\.jpeg", "PNEUMONIA": r"person\d+_(bacteria|virus)_\d+\.jpeg"}
    total = 0
    for split, groups in summary.counts.items():
        numbers = {"NORMAL": groups["normal"], "PNEUMONIA": groups["bacterial"] + groups["viral"]}
        for label, pattern in names.items():
            paths = list((folder / "chest_xray" / split / label).iterdir())
            assert len(paths) == numbers[label]
            assert all(re.fullmatch(pattern, path.name) for path in paths)
            total += len(paths)
    assert total == CASES
    assert summary.counts["val"] == {"normal": 8, "bacterial": 8, "viral": 0}
    with Image.open(paths[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (SIZE, SIZE))


@pytest.mark.parametrize("cases", [40, 41, 57, 100, 999, 5856])
def test_counts_add_up_and_leave_no_group_out(cases):
    counts = layouts._chest_counts(cases)
    assert sum(sum(groups.values()) for groups in counts.values()) == cases
    assert all(min(counts[split].values()) >= 1 for split in ("train", "test"))
    if cases == 5856:  # the archive's own number gives its own counts
        assert counts["train"] == {"normal": 1341, "bacterial": 2530, "viral": 1345}
        assert counts["test"] == {"normal": 234, "bacterial": 242, "viral": 148}


def test_no_patient_in_two_splits_and_masks_match_the_truth(chest):
    folder, _ = chest
    rows = read(folder / "chest_xray_masks" / "concepts.csv")
    splits = {}
    for row in rows:
        splits.setdefault(row["patient"], set()).add(row["split"])
        assert int(re.search(r"(?:person|IM-)(\d+)", row["image"])[1]) == int(row["patient"])
        place = folder / "chest_xray_masks" / row["split"] / row["image"].removesuffix(".jpeg")
        masks = {path.stem: np.asarray(Image.open(path)) for path in place.glob("*.png")}
        assert set(masks) == {concept for concept in CHEST_TABLE.values if row[concept] != "absent"} | {"lungs"}
        assert all(mask.shape == (SIZE, SIZE) and set(np.unique(mask)) == {0, 255} for mask in masks.values())
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) < len(rows)  # some have several images


def test_the_cards_say_what_it_is(derm, chest):
    card = json.loads((derm[0] / "phantom.json").read_text())
    assert card["phantom"] == "not clinical"
    assert (card["cases"], card["seed"], card["mix"]) == (40, 5, "real")
    assert card["best_reachable"]["accuracy"] == pytest.approx(derm[1].best.accuracy, abs=1e-4)
    assert 0.85 < card["best_reachable"]["accuracy"] < card["best_reachable"]["auc"] < 1
    card = json.loads((chest[0] / "phantom.json").read_text())
    assert card["phantom"].startswith("not clinical")
    assert (card["cases"], card["seed"], card["version"]) == (CASES, SEED, VERSION)
    assert card["best_reachable"]["accuracy"] == chest[1].best.accuracy
    assert chest[1].best == best_reachable(CHEST_TABLE, chest[1].counts["test"], ("bacterial", "viral"))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_number_of_workers_does_not_matter_but_the_seed_does(kind, tmp_path):
    write, cases, size = LAYOUTS[kind]
    for name, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        write(tmp_path / name, cases, seed, size=size, workers=workers)
    first, second, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert first == second
    images = {data for name, data in first.items() if name.lower().endswith(("jpg", "jpeg"))}
    assert len(images) >= cases
    assert not images & set(other.values())


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_failure_half_way_leaves_nothing(kind, tmp_path, monkeypatch):
    write, cases, size = LAYOUTS[kind]
    name = {"derm": "draw_dermoscopy", "chest": "draw_chest"}[kind]
    draw, calls = getattr(layouts, name), []

    def fails_at_the_seventh(*args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(layouts, name, fails_at_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", cases, 0, size=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("write", "cases", "seed", "more", "words"),
    [
        (write_derm7pt, 12, 0, {"mix": "balancd"}, "balanced"),
        (write_derm7pt, 3, 0, {}, "at least 12"),
        (write_derm7pt, 12, -1, {}, "seed"),
        (write_chest, 39, 0, {}, "at least 40"),
        (write_chest, 40, -1, {}, "0 or more"),
    ],
)
def test_bad_arguments_are_named(tmp_path, write, cases, seed, more, words):
    with pytest.raises(ValueError, match=words):
        write(tmp_path / "set", cases, seed, **more)
    assert list(tmp_path.iterdir()) == []


def test_results_come_in_the_order_of_the_jobs_and_errors_come_through():
    jobs = list(range(-30, 0))
    expected = list(range(30, 0, -1))
    assert draw_cases(abs, jobs) == draw_cases(abs, jobs, workers=2) == expected
    with pytest.raises(TypeError):
        draw_cases(abs, [1, "a"], workers=2)


def test_a_folder_that_vanished_while_it_was_filled_does_not_come_back(tmp_path):
    with pytest.raises(FileNotFoundError):
        layouts._write_lesion((0, "NEV"), tmp_path / "gone", 0, 64)
    one = layouts._Radiograph(0, 1, "train", "normal", "IM-0001-0001")
    with pytest.raises(FileNotFoundError):
        layouts._write_radiograph(one, tmp_path / "gone", 0, 64)
    assert list(tmp_path.iterdir()) == []
