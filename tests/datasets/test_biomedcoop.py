"""The sets of BiomedCoOp: names, order and counts as published, places, and splits that stay as they are."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest
from tree_tools import config, load
from trees_biomedcoop import NAMES, biomedcoop

from xcoop.data import dataset as module
from xcoop.data.about import about
from xcoop.data.folders import Finding


@pytest.mark.parametrize("name", NAMES)
def test_the_facts_say_that_the_splits_stay_as_published(name: str) -> None:
    known = about(name)
    assert config(name, "").DATASET.HYGIENE == "report"
    assert known.homepage == "https://github.com/HealthX-Lab/BiomedCoOp"
    assert "read unchanged" in known.caution
    assert "CVPR 2025" in known.citation


def test_an_image_in_two_splits_is_said_and_stays(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = biomedcoop("retina", root)
    rows = json.loads(source.read_text(encoding="utf-8"))
    images = source.parent / "RETINA"
    shutil.copy(images / rows["train"][0][0], images / rows["test"][0][0])
    dataset = load("retina", root)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (16, 8, 4)
    assert "1 train images have their content in test too, kept (DATASET.HYGIENE is 'report')" in caplog.text
    assert len(load("retina", root, HYGIENE="drop").train_x) == 15


def test_the_order_of_the_rows_does_not_count(root: Path) -> None:
    source = biomedcoop("kvasir", root)
    first = load("kvasir", root, NUM_SHOTS=2)
    rows = json.loads(source.read_text(encoding="utf-8"))
    source.write_text(json.dumps({split: rows[split][::-1] for split in reversed(rows)}), encoding="utf-8")
    second = load("kvasir", root, NUM_SHOTS=2)
    assert first.split_hash == second.split_hash
    assert [item.impath for item in first.train_x] == [item.impath for item in second.train_x]


ENTRIES = 20_000
SECONDS = 10  # an idle machine takes a tenth of it
# SHA-256 of the paths of 16 shots with seed 1, one a line
SUBSET = "194919a37b4dad40017e4e2662b297abe4b03c060e245cf27683b21c08fd0a62"


def test_it_loads_in_seconds_and_its_subset_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    classes = config("lungcolon", "").DATASET.CLASSES
    rows = [[f"{classes[i % 5]}/{i}.jpeg", i % 5, classes[i % 5]] for i in range(ENTRIES)]
    splits = {"train": rows[:14_000], "val": rows[14_000:16_000], "test": rows[16_000:]}
    images = tmp_path / "LungColon" / "LungColon"
    for name in classes:
        (images / name).mkdir(parents=True)
    for path, _, _ in rows:
        (images / path).touch()
    (tmp_path / "LungColon" / "split_LungColon.json").write_text(json.dumps(splits), encoding="utf-8")
    monkeypatch.setattr(module, "survey", lambda _, paths: {path: Finding(1, 1, path, "", "") for path in paths})
    start = time.perf_counter()
    dataset = load("lungcolon", tmp_path, NUM_SHOTS=16)
    assert time.perf_counter() - start < SECONDS
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (80, 20, 4_000)
    paths = [str(Path(item.impath).relative_to(dataset.dataset_dir).as_posix()) for item in dataset.train_x]
    assert hashlib.sha256("\n".join(paths).encode()).hexdigest() == SUBSET
