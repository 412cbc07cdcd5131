"""The record of a run: what it holds, that it is whole or absent, and that damage is noticed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from synthetic_runs import config, outcome, trainer, write

from xcoop.results import record
from xcoop.results.facts import facts
from xcoop.results.predictions import read_predictions
from xcoop.results.record import PREDICTIONS, RESULTS, read_run, write_run
from xcoop.results.table import collect, render
from xcoop.utils.files import sha256_file


def test_holds_what_a_table_and_a_reader_need(tmp_path: Path) -> None:
    write(config(tmp_path), correct=15)
    found = read_run(tmp_path)
    assert found is not None
    assert found["metrics"]["accuracy"] == 0.75
    assert (found["dataset"], found["trainer"], found["shots"], found["seed"]) == ("Phantom", "CoOp", 4, 1)
    assert (found["n_train"], found["n_val"], found["n_test"]) == (8, 4, 20)
    assert found["classnames"] == ["nevus", "melanoma"]
    assert found["is_phantom"] is True
    assert found["selection"] == "last_step"
    assert found["seconds"] == {"train": 1.5}
    assert found["peak_memory_mb"] > 0
    assert {"python", "torch", "torchvision", "numpy", "clip-anytorch", "xcoop", "engine"} <= found["versions"].keys()
    assert np.sum(found["confusion"]) == 20


def test_states_how_many_numbers_are_trained(tmp_path: Path) -> None:
    assert json.loads(write(config(tmp_path / "a"), 15).read_text())["trained_parameters"] is None
    made = trainer(config(tmp_path / "b"), model=SimpleNamespace(count_trained=lambda: 24))
    assert json.loads(write_run(made, *outcome(15)).read_text())["trained_parameters"] == 24


def test_predictions_are_exact_and_name_image_and_patient(tmp_path: Path) -> None:
    labels, _, paths = outcome(20)
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1], size=20)
    write_run(trainer(config(tmp_path)), labels, probabilities, paths)
    with (tmp_path / PREDICTIONS).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "patient", "label", "name", "predicted", "p_nevus", "p_melanoma"]
    assert (rows[3]["image"], rows[3]["patient"], rows[3]["name"]) == ("drawn/3.png", "case-1", "melanoma")
    read = np.array([[float(row["p_nevus"]), float(row["p_melanoma"])] for row in rows])
    np.testing.assert_array_equal(read, probabilities)
    assert [int(row["predicted"]) for row in rows] == probabilities.argmax(1).tolist()


def test_paths_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    first = json.loads(write(config(tmp_path / "a"), 10).read_text())
    moved = trainer(config(tmp_path / "b", "DATASET.ROOT", ""))
    labels, probabilities, paths = outcome(10)
    moved.dm.dataset.dataset_dir = "/cache/drawn"
    second = json.loads(
        write_run(moved, labels, probabilities, [path.replace("/somewhere", "/cache") for path in paths]).read_text()
    )
    assert first["test_hash"] == second["test_hash"]
    assert first["config_hash"] == second["config_hash"]


def test_other_test_images_have_another_hash(tmp_path: Path) -> None:
    first = json.loads(write(config(tmp_path / "a"), 10, images=20).read_text())
    second = json.loads(write(config(tmp_path / "b"), 10, images=18).read_text())
    assert first["test_hash"] != second["test_hash"]


def test_nan_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    labels, probabilities, paths = outcome(10)
    probabilities[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        write_run(trainer(config(tmp_path)), labels, probabilities, paths)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_evaluation_leaves_the_finished_one(tmp_path: Path) -> None:
    write(config(tmp_path), 15)
    before = sha256_file(tmp_path / RESULTS)
    labels, probabilities, paths = outcome(10)
    with pytest.raises(ValueError, match="paths"):
        write_run(trainer(config(tmp_path)), labels, probabilities, paths[:-1])
    assert sha256_file(tmp_path / RESULTS) == before


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


def test_unfinished_is_none(tmp_path: Path) -> None:
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


def test_a_result_without_its_predictions_is_damaged(tmp_path: Path) -> None:
    write(config(tmp_path), 15)
    (tmp_path / PREDICTIONS).unlink()
    with pytest.raises(ValueError, match=PREDICTIONS):
        read_run(tmp_path)


def test_another_schema_is_named(tmp_path: Path) -> None:
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
    assert json.loads(write_run(made, *outcome(10)).read_text())["best_reachable"] == {"accuracy": 0.9, "auc": 0.96}
    made.dm.dataset.task = "groups"
    assert json.loads(write_run(made, *outcome(10)).read_text())["best_reachable"] is None


def one_class(folder: Path) -> dict[str, Any]:
    """The record of an evaluation on nevi alone."""
    _, probabilities, paths = outcome(20)
    path = write_run(trainer(config(folder)), np.zeros(20, int), probabilities, paths)
    return dict(json.loads(path.read_text()))


def test_classes_without_a_test_image_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = one_class(tmp_path / "CoOp" / "vit_4shots" / "seed1")
    assert "no test image of 'melanoma': balanced accuracy and macro-F1 are means over the other" in caplog.text
    assert found["absent_classes"] == ["melanoma"]
    unknown = ("macro_auc", "average_precision", "sensitivity_at_95_specificity", "sensitivity_1", "specificity_0")
    assert all(found["metrics"][name] is None for name in unknown)
    assert "WARNING: no test image of melanoma: balanced accuracy" in render(collect(tmp_path), "demo")
    assert any("no test image of melanoma" in line for line in facts([found]))
    assert json.loads(write(config(tmp_path / "both"), 10).read_text())["absent_classes"] == []


@pytest.mark.parametrize(("stated", "positive"), [("melanoma", 1), ("nevus", 0)])
def test_the_positive_class_is_recorded_shown_and_used(tmp_path: Path, stated: str, positive: int) -> None:
    folder = tmp_path / "CoOp" / "vit_4shots" / "seed1"
    made, (labels, _, paths) = trainer(config(folder)), outcome(20)
    made.dm.dataset.positive_class = stated
    probabilities = np.random.default_rng(1).dirichlet([1, 1], size=20)
    found = json.loads(write_run(made, labels, probabilities, paths).read_text())
    assert found["positive_class"] == stated
    expected = average_precision_score(labels == positive, probabilities[:, positive])
    assert found["metrics"]["average_precision"] == pytest.approx(expected)
    assert read_predictions(folder).metrics() == found["metrics"]
    assert f"Positive class: {stated}." in render(collect(tmp_path), "demo")


def test_records_without_a_positive_class_are_of_the_last(tmp_path: Path) -> None:
    path = write(config(tmp_path / "CoOp" / "vit_4shots" / "seed1"), 15)
    old = json.loads(path.read_text())
    del old["positive_class"], old["absent_classes"]
    path.write_text(json.dumps(old | {"checksum": record.checksum(old)}))
    assert read_predictions(path.parent).metrics() == old["metrics"]
    assert "Positive class: melanoma." in render(collect(tmp_path), "demo")
