"""Dermoscopy phantoms on disk: Derm7pt's layout, whole or absent, the same whoever draws."""

import csv
import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from xcoop.phantom import derm_layout
from xcoop.phantom.derm_layout import COLUMNS, write_derm7pt
from xcoop.phantom.tables import VALUES, seven_point_score

OFFICIAL_COLUMNS = [
    "case_num",
    "diagnosis",
    "seven_point_score",
    "pigment_network",
    "streaks",
    "pigmentation",
    "regression_structures",
    "dots_and_globules",
    "blue_whitish_veil",
    "vascular_structures",
    "level_of_diagnostic_difficulty",
    "elevation",
    "location",
    "sex",
    "management",
    "clinic",
    "derm",
    "case_id",
    "notes",
]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("derm") / "set"
    return out, write_derm7pt(out, 40, 5, mix="real", progress=False, size=96)


def test_meta_has_the_official_columns_and_values(phantom):
    out, _ = phantom
    rows = read(out / "release_v0/meta/meta.csv")
    assert list(COLUMNS) == OFFICIAL_COLUMNS == list(rows[0])
    assert [int(row["case_num"]) for row in rows] == list(range(1, 41))
    assert len({row["case_id"] for row in rows}) == 40
    for row in rows:
        assert all(row[concept] in values for concept, values in VALUES.items())
        assert int(row["seven_point_score"]) == seven_point_score(row)


def test_index_files_share_out_all_rows(phantom):
    out, summary = phantom
    splits = {s: [int(r["indexes"]) for r in read(out / f"release_v0/meta/{s}_indexes.csv")] for s in summary.counts}
    assert sorted(index for rows in splits.values() for index in rows) == list(range(40))
    assert {s: len(rows) for s, rows in splits.items()} == {s: sum(c.values()) for s, c in summary.counts.items()}
    assert len(splits["valid"]) < len(splits["test"]) < 40 / 2


def test_pictures_and_masks_are_there(phantom):
    out, _ = phantom
    release = out / "release_v0"
    stems = set()
    for row in read(release / "meta/meta.csv"):
        with Image.open(release / "images" / row["derm"]) as picture:
            assert (picture.size, picture.mode, picture.format) == ((96, 96), "RGB", "JPEG")
        with Image.open(release / "images" / row["clinic"]) as picture:
            assert picture.mode == "RGB"
        stem = (release / "images" / row["derm"]).stem
        stems |= {stem.lower(), row["clinic"].rpartition("/")[2].partition(".")[0].lower()}
        expected = {c for c in VALUES if row[c] != "absent"} | {"lesion"}
        masks = {path.stem: np.asarray(Image.open(path)) for path in (release / "masks" / stem).iterdir()}
        assert set(masks) == expected
        assert all(mask.shape == (96, 96) and set(np.unique(mask)) == {0, 255} for mask in masks.values())
    assert len(stems) == 80


def test_card_says_what_it_is(phantom):
    out, summary = phantom
    card = json.loads((out / "phantom.json").read_text())
    assert card["phantom"] == "not clinical"
    assert (card["cases"], card["seed"], card["mix"]) == (40, 5, "real")
    assert card["best_reachable"]["accuracy"] == pytest.approx(summary.best.accuracy, abs=1e-4)
    assert 0.85 < card["best_reachable"]["accuracy"] < card["best_reachable"]["auc"] < 1


def test_balanced_is_half_melanoma_in_every_split(tmp_path):
    summary = write_derm7pt(tmp_path / "set", 24, 0, progress=False, size=96, fractions=(1, 1, 2))
    assert summary.counts == {s: {"MEL": n, "NEV": n} for s, n in (("train", 3), ("valid", 3), ("test", 6))}
    rows = read(tmp_path / "set/release_v0/meta/meta.csv")
    assert sum("melanoma" in row["diagnosis"] for row in rows) == 12
    assert sum("nevus" in row["diagnosis"] for row in rows) == 12


def test_worker_count_does_not_matter_but_the_seed_does(tmp_path):
    for name, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        write_derm7pt(tmp_path / name, 12, seed, progress=False, size=96, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    first, other = (digests(tmp_path / name) for name in ("one", "other"))
    pictures = {name for name in first if name.endswith(".jpg")}
    assert pictures
    assert all(first[name] != other[name] for name in pictures)


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    draw, calls = derm_layout.draw_dermoscopy, []

    def fail_at_the_seventh(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(derm_layout, "draw_dermoscopy", fail_at_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        write_derm7pt(tmp_path / "set", 12, 0, progress=False, size=96)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_generation_leaves_nothing_taken_for_whole(tmp_path):
    code = f"from xcoop.phantom.derm_layout import write_derm7pt as w; w({str(tmp_path / 'set')!r}, 3000, 0, workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.rglob("*.jpg"))
    assert not (tmp_path / "set").exists()
    assert not list(tmp_path.rglob("meta.csv"))


def test_an_existing_folder_is_never_overwritten(tmp_path):
    kept = tmp_path / "set" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match="set"):
        write_derm7pt(tmp_path / "set", 12, 0, progress=False, size=96)
    assert [path.name for path in kept.parent.iterdir()] == ["notes.txt"]
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mix": "balancd"}, "balanced"),
        ({"cases": 3}, "at least 12"),
        ({"seed": -1}, "seed"),
        ({"fractions": (1, 0, 1)}, "fractions"),
    ],
)
def test_bad_arguments_are_named(tmp_path, changed, words):
    arguments = {"cases": 12, "seed": 0, "mix": "balanced", "fractions": (1, 1, 1)} | changed
    with pytest.raises(ValueError, match=words):
        write_derm7pt(tmp_path / "set", progress=False, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanished_while_it_was_filled_does_not_come_back(tmp_path):
    with pytest.raises(FileNotFoundError):
        derm_layout._write_case(derm_layout._Case(0, 0, "NEV", 64, str(tmp_path / "gone")))
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_lost_an_image_while_it_was_drawn_is_not_published(tmp_path, monkeypatch):
    draw = derm_layout._write_case

    def loses(case):
        drawn = draw(case)
        if case.index == 7:
            next(derm_layout.Path(case.release, "images").rglob("*.jpg")).unlink()
        return drawn

    monkeypatch.setattr(derm_layout, "_write_case", loses)
    with pytest.raises(OSError, match=r"files were written, and .* are there"):
        write_derm7pt(tmp_path / "new", 12, 0, size=64, progress=False)
    assert list(tmp_path.iterdir()) == []
