"""Predictions read back: as they were written, checked, and several runs aligned by image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import config, outcome, trainer, write

from xcoop.results.predictions import Predictions, aligned, read_predictions
from xcoop.results.record import PREDICTIONS, RESULTS, checksum, write_run
from xcoop.utils.files import sha256_file


def rewrite(folder: Path, old: str, new: str) -> None:
    """Changes the predictions as a buggy writer would: with checksums that fit."""
    path = folder / PREDICTIONS
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    record = json.loads((folder / RESULTS).read_text()) | {"predictions_sha256": sha256_file(path)}
    (folder / RESULTS).write_text(json.dumps(record | {"checksum": checksum(record)}))


def made(images: str = "abcd", labels: tuple[int, ...] = (0, 1, 0, 1), source: str = "one") -> Predictions:
    probabilities = np.stack([np.arange(len(images)) / 10, 1 - np.arange(len(images)) / 10], axis=1)
    patients = (None,) * len(images)
    return Predictions(tuple(images), patients, np.array(labels), probabilities, ("nevus", "melanoma"), source)


def test_reads_what_was_written(tmp_path: Path) -> None:
    labels, _, paths = outcome(20)
    probabilities = np.random.default_rng(0).dirichlet([1, 1], size=20)
    write_run(trainer(config(tmp_path)), labels, probabilities, paths)
    found = read_predictions(tmp_path)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.probabilities, probabilities)
    assert found.classnames == ("nevus", "melanoma")
    assert (found.images[3], found.patients[3]) == ("drawn/3.png", "case-1")
    assert found.metrics() == json.loads((tmp_path / RESULTS).read_text())["metrics"]


def test_metrics_that_an_older_record_lacks_are_computed(tmp_path: Path) -> None:
    write(config(tmp_path), 15)
    record = json.loads((tmp_path / RESULTS).read_text())
    del record["metrics"]["average_precision"]
    (tmp_path / RESULTS).write_text(json.dumps(record | {"checksum": checksum(record)}))
    assert 0 < (read_predictions(tmp_path).metrics()["average_precision"] or 0) <= 1


def test_an_unknown_patient_is_none(tmp_path: Path) -> None:
    stub = trainer(config(tmp_path))
    stub.dm.dataset.patients = {}
    write_run(stub, *outcome(15))
    assert set(read_predictions(tmp_path).patients) == {None}


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path.name} holds no finished run"):
        read_predictions(tmp_path)


def test_a_changed_file_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    write(config(tmp_path), 15)
    path = tmp_path / PREDICTIONS
    path.write_text(path.read_text().replace("0.75", "0.76", 1))
    with pytest.raises(ValueError, match=r"predictions\.csv was changed"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("drawn/3.png,", "drawn/2.png,", "1 images stand there more than once, the first is 'drawn/2.png'"),
        ("drawn/3.png,case-1,1,melanoma", "drawn/3.png,case-1,0,melanoma", "'drawn/3.png' has label 0 .*'melanoma'"),
        ("1,melanoma,1,0.25,0.75", "1,melanoma,0,0.25,0.75", "is said to be predicted as 0; its probabilities say 1"),
        ("drawn/3.png,case-1,1,melanoma,1,0.25", "drawn/3.png,case-1,1,melanoma,1,0.5", "sum to one"),
        ("drawn/3.png,case-1,1,", "drawn/3.png,case-1,7,", r"labels must be in \[0, 2\)"),
        ("p_nevus,p_melanoma", "p_melanoma,p_nevus", "expected image, .* p_nevus, p_melanoma"),
        ("drawn/3.png,case-1,", "drawn/3.png,", "line 5 has not 7 fields"),
        ("drawn/3.png,case-1,1,melanoma,1,0.25,0.75\n", "", "19 images, but results.json says 20"),
        ("0.25", "a quarter", "could not convert"),
    ],
)
def test_a_record_that_contradicts_itself(tmp_path: Path, old: str, new: str, message: str) -> None:
    write(config(tmp_path), 20)
    rewrite(tmp_path, old, new)
    with pytest.raises(ValueError, match=message) as raised:
        read_predictions(tmp_path)
    assert PREDICTIONS in str(raised.value)


def test_runs_are_aligned_by_image() -> None:
    first, second = made("abcd"), made("dbca", (1, 1, 0, 0), "two")
    found = aligned([first, second])
    assert found.images == ("a", "b", "c", "d")
    assert found.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(found.probabilities[:, :, 0], [[0, 0.1, 0.2, 0.3], [0.3, 0.1, 0.2, 0]])


def test_a_patient_that_one_run_knows_is_known() -> None:
    known = replace(made(), patients=("p", None, "q", None))
    assert aligned([made(), known]).patients == ("p", None, "q", None)
    with pytest.raises(ValueError, match="one and two disagree on the patient of 'a': p, r"):
        aligned([known, replace(known, patients=("r", None, "q", None), source="two")])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made("abce", source="two"), "one and two were not tested on the same images: 1 are only in the first, 1 only"),
        (made("abc", (0, 1, 0), "two"), "1 are only in the first, 0 only in the second, e.g. 'd'"),
        (made(labels=(0, 1, 1, 1), source="two"), "one and two disagree on the label of 'c'"),
        (replace(made(source="two"), classnames=("melanoma", "nevus")), "one and two have different classes"),
    ],
)
def test_runs_on_other_images_are_refused(other: Predictions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aligned([made(), other])


def test_nothing_to_align() -> None:
    with pytest.raises(ValueError, match="no runs"):
        aligned([])
