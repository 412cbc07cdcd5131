"""A set of 100,000 entries: it loads in seconds, and its few-shot subset is the same everywhere."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
from tree_tools import config, load

from xcoop.data import dataset as module
from xcoop.data.survey import Finding

ENTRIES = 100_000
SECONDS = 30  # an idle machine takes a tenth of it
# SHA-256 of the paths of 16 shots with seed 1, one a line
SUBSET = "21e11b2d77888f8509499d0ffade60b160b014a6dc64423802dc893afc641371"


def test_it_loads_in_seconds_and_its_subset_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    classes = config("lungcolon", "").DATASET.CLASSES
    rows = [[f"{classes[i % 5]}/{i}.jpeg", i % 5, classes[i % 5]] for i in range(ENTRIES)]
    splits = {"train": rows[:70_000], "val": rows[70_000:80_000], "test": rows[80_000:]}
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
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (80, 20, 20_000)
    paths = [str(Path(item.impath).relative_to(dataset.dataset_dir).as_posix()) for item in dataset.train_x]
    assert hashlib.sha256("\n".join(paths).encode()).hexdigest() == SUBSET
