"""The record of a run: what it holds, that it is whole or absent, that damage is noticed; predictions read back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from synthetic_runs import config, outcome, trainer, write

from xcoop.results import record
from xcoop.results.benchmark import collect
from xcoop.results.record import (
    PREDICTIONS,
    RESULTS,
    Predictions,
    aligned,
    checksum,
    from_spreadsheet,
    read_predictions,
    read_run,
    spreadsheet_safe,
    write_run,
)
from xcoop.results.table import facts, render
from xcoop.utils.files import sha256_file


def written(made: Any, *evaluation: Any) -> dict[str, Any]:
    """The record that is written of an evaluation."""
    return dict(json.loads(write_run(made, *(evaluation or outcome(10))).read_text()))


# Written.


def test_holds_what_a_table_and_a_reader_need(tmp_path: Path) -> None:
    write(config(tmp_path), correct=15)
    found = read_run(tmp_path)
    assert found is not None
    expected = {
        "dataset": "Phantom", "trainer": "CoOp", "shots": 4, "seed": 1, "n_train": 8, "n_val": 4, "n_test": 20,
        "classnames": ["nevus", "melanoma"], "is_phantom": True, "selection": "last_step", "seconds": {"train": 1.5},
        "trained_parameters": 24, "absent_classes": [], "bank": None, "cfg": "phantom", "command": "train.py",
        "precision": "fp16",
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["metrics"]["accuracy"] == 0.75
    assert found["peak_memory_mb"] > 0
    assert {"python", "torch", "torchvision", "numpy", "clip-anytorch", "xcoop", "engine"} <= found["versions"].keys()
    assert np.sum(found["confusion"]) == 20


def test_paths_do_not_depend_on_the_machine_and_other_images_have_another_hash(tmp_path: Path) -> None:
    first = json.loads(write(config(tmp_path / "a"), 10).read_text())
    moved = trainer(config(tmp_path / "b", "DATASET.ROOT", ""))
    labels, probabilities, paths = outcome(10)
    moved.dm.dataset.dataset_dir = "/cache/drawn"
    second = written(moved, labels, probabilities, [path.replace("/somewhere", "/cache") for path in paths])
    assert first["test_hash"] == second["test_hash"]
    assert first["config_hash"] == second["config_hash"]
    assert json.loads(write(config(tmp_path / "c"), 10, images=18).read_text())["test_hash"] != first["test_hash"]


def test_what_is_refused_writes_nothing_and_leaves_the_finished_one(tmp_path: Path) -> None:
    labels, probabilities, paths = outcome(10)
    wrong = np.where(np.arange(40).reshape(20, 2) == 6, np.nan, probabilities)
    with pytest.raises(ValueError, match="NaN"):
        write_run(trainer(config(tmp_path / "a")), labels, wrong, paths)
    assert not (tmp_path / "a").exists()
    write(config(tmp_path / "b"), 15)
    before = sha256_file(tmp_path / "b" / RESULTS)
    with pytest.raises(ValueError, match="paths"):
        write_run(trainer(config(tmp_path / "b")), labels, probabilities, paths[:-1])
    assert sha256_file(tmp_path / "b" / RESULTS) == before


@pytest.mark.parametrize("fatal", [1, 2])
def test_dying_half_way_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int) -> None:
    """The process dies at the first or at the second file: the run is not taken for finished."""
    write(config(tmp_path), 15)
    calls = []

    def dying(path: Path, text: str) -> None:
        calls.append(path.name)
        if len(calls) == fatal:
            raise KeyboardInterrupt
        path.write_text(text)

    monkeypatch.setattr(record, "atomic_write_text", dying)
    with pytest.raises(KeyboardInterrupt):
        write(config(tmp_path), 10)
    assert calls == [PREDICTIONS, RESULTS][:fatal]
    assert read_run(tmp_path) is None


@pytest.mark.parametrize("name", [RESULTS, PREDICTIONS])
def test_one_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    write(config(tmp_path), 15)
    content = (tmp_path / name).read_bytes()
    for place in range(10, len(content), 97):
        damaged = bytearray(content)
        damaged[place] = ord("7") if damaged[place] != ord("7") else ord("8")
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            read_run(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert read_run(tmp_path) is not None


def test_a_result_without_its_predictions_and_another_schema_are_named(tmp_path: Path) -> None:
    write(config(tmp_path), 15)
    (tmp_path / PREDICTIONS).unlink()
    with pytest.raises(ValueError, match=PREDICTIONS):
        read_run(tmp_path)
    path = write(config(tmp_path), 15)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        read_run(tmp_path)


def test_best_reachable_comes_from_the_card_of_the_phantom(tmp_path: Path) -> None:
    card = {"best_reachable": {"task": "melanoma against nevus", "accuracy": 0.9, "auc": 0.96}}
    (tmp_path / "phantom.json").write_text(json.dumps(card))
    (tmp_path / "release_v0").mkdir()
    made = trainer(config(tmp_path / "run"))
    made.dm.dataset.dataset_dir = str(tmp_path / "release_v0")
    made.dm.dataset.tasks, made.dm.dataset.task = {"mel-nev": (), "groups": ()}, "mel-nev"
    assert written(made)["best_reachable"] == {"accuracy": 0.9, "auc": 0.96}
    made.dm.dataset.task = "groups"
    assert written(made)["best_reachable"] is None


def test_classes_without_a_test_image_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, probabilities, paths = outcome(20)
    made = trainer(config(tmp_path / "CoOp" / "vit_4shots" / "seed1"))
    found = written(made, np.zeros(20, int), probabilities, paths)
    assert "no test image of 'melanoma': balanced accuracy and macro-F1 are means over the other" in caplog.text
    assert found["absent_classes"] == ["melanoma"]
    unknown = ("macro_auc", "average_precision", "sensitivity_at_95_specificity", "sensitivity_1", "specificity_0")
    assert all(found["metrics"][name] is None for name in unknown)
    assert "WARNING: no test image of melanoma: balanced accuracy" in render(collect(tmp_path), "demo")
    assert any("no test image of melanoma" in line for line in facts([found]))


@pytest.mark.parametrize(("stated", "positive"), [("melanoma", 1), ("nevus", 0)])
def test_the_positive_class_is_recorded_shown_and_used(tmp_path: Path, stated: str, positive: int) -> None:
    made, (labels, _, paths) = trainer(config(tmp_path / "CoOp" / "vit_4shots" / "seed1")), outcome(20)
    made.dm.dataset.positive_class = stated
    probabilities = np.random.default_rng(1).dirichlet([1, 1], size=20)
    found = written(made, labels, probabilities, paths)
    assert found["positive_class"] == stated
    expected = average_precision_score(labels == positive, probabilities[:, positive])
    assert found["metrics"]["average_precision"] == pytest.approx(expected)
    assert f"Positive class: {stated}." in render(collect(tmp_path), "demo")


# Read back.


def rewrite(folder: Path, old: str, new: str) -> None:
    """Changes the predictions as a buggy writer would: with checksums that fit."""
    path = folder / PREDICTIONS
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = json.loads((folder / RESULTS).read_text()) | {"predictions_sha256": sha256_file(path)}
    (folder / RESULTS).write_text(json.dumps(found | {"checksum": checksum(found)}))


def made(images: str = "abcd", labels: tuple[int, ...] = (0, 1, 0, 1), source: str = "one") -> Predictions:
    probabilities = np.stack([np.arange(len(images)) / 10, 1 - np.arange(len(images)) / 10], axis=1)
    patients = (None,) * len(images)
    return Predictions(tuple(images), patients, np.array(labels), probabilities, ("nevus", "melanoma"), source)


def test_predictions_are_exact_and_read_back_as_they_were(tmp_path: Path) -> None:
    labels, _, paths = outcome(20)
    probabilities = np.random.default_rng(0).dirichlet([1, 1], size=20)
    write_run(trainer(config(tmp_path)), labels, probabilities, paths)
    with (tmp_path / PREDICTIONS).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "patient", "label", "name", "predicted", "p_nevus", "p_melanoma"]
    assert (rows[3]["image"], rows[3]["patient"], rows[3]["name"]) == ("drawn/3.png", "case-1", "melanoma")
    assert [int(row["predicted"]) for row in rows] == probabilities.argmax(1).tolist()
    found = read_predictions(tmp_path)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.probabilities, probabilities)
    assert found.classnames == ("nevus", "melanoma")
    assert (found.images[3], found.patients[3]) == ("drawn/3.png", "case-1")


def test_an_unfinished_run_is_named_and_an_unknown_patient_is_none(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    with pytest.raises(ValueError, match=f"{tmp_path.name} holds no finished run"):
        read_predictions(tmp_path)
    stub = trainer(config(tmp_path))
    stub.dm.dataset.patients = {}
    write_run(stub, *outcome(15))
    assert set(read_predictions(tmp_path).patients) == {None}


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


def test_runs_are_aligned_by_image_and_patients_that_one_run_knows_are_known() -> None:
    found = aligned([made("abcd"), made("dbca", (1, 1, 0, 0), "two")])
    assert found.images == ("a", "b", "c", "d")
    assert found.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(found.probabilities[:, :, 0], [[0, 0.1, 0.2, 0.3], [0.3, 0.1, 0.2, 0]])
    known = replace(made(), patients=("p", None, "q", None))
    assert aligned([made(), known]).patients == ("p", None, "q", None)
    with pytest.raises(ValueError, match="one and two disagree on the patient of 'a': p, r"):
        aligned([known, replace(known, patients=("r", None, "q", None), source="two")])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            [made("abce", source="two")],
            "one and two were not tested on the same images: 1 are only in the first, 1 only",
        ),
        ([made("abc", (0, 1, 0), "two")], "1 are only in the first, 0 only in the second, e.g. 'd'"),
        ([made(labels=(0, 1, 1, 1), source="two")], "one and two disagree on the label of 'c'"),
        ([replace(made(source="two"), classnames=("melanoma", "nevus"))], "one and two have different classes"),
    ],
)
def test_runs_that_cannot_be_aligned(others: list[Predictions], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aligned([made(), *others])


# In a spreadsheet.


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd", "@SUM(A1)", "\t=1", " =1", "'=1", "''-x",
                                  "＝1", "-", "=", "+a/b.png"])  # fmt: skip
def test_formulas_are_marked(text: str) -> None:
    safe = str(spreadsheet_safe(text))
    assert safe == f"'{text}"
    assert from_spreadsheet(safe) == text


@pytest.mark.parametrize("text", ["", "a=b", "it's", "'quoted'", "-0.5", "+1.2e-05", "-3.1 ± 0.4",
                                  "-0.1 [-0.3, 0.2] *", "85.1 ± 1.2 ~"])  # fmt: skip
def test_other_texts_and_figures_stay(text: str) -> None:
    assert spreadsheet_safe(text) == from_spreadsheet(text) == text
    assert spreadsheet_safe(-1.5) == -1.5


def test_predictions_hold_no_formula(tmp_path: Path) -> None:
    stub = trainer(config(tmp_path))
    impaths = [f"{stub.dm.dataset.dataset_dir}/{name}/0.png" for name in ("=1+1", "@x", "plain")]
    stub.dm.dataset.patients = dict(zip(impaths, ("-2+3", "+49", "p1"), strict=True))
    stub.cfg.DATASET.ROOT = stub.dm.dataset.dataset_dir
    write_run(stub, [0, 1, 0], np.full((3, 2), 0.5), impaths)
    found = read_predictions(tmp_path)
    assert found.images == ("=1+1/0.png", "@x/0.png", "plain/0.png")
    assert found.patients == ("-2+3", "+49", "p1")
    with (tmp_path / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        cells = [row[:2] for row in csv.reader(file)][1:]
    assert cells == [["'=1+1/0.png", "'-2+3"], ["'@x/0.png", "+49"], ["plain/0.png", "p1"]]
