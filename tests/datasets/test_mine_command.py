"""`xcoop concepts mine`, end to end: on a generated tree in Derm7pt's layout, and on tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tree_tools import edit, load, picture, write_csv

from xcoop.cli import main
from xcoop.commands.concepts_mine import source_key
from xcoop.concepts import load_bank
from xcoop.concepts.bank import Mined
from xcoop.phantom.tables import DERM_TABLE

CONCEPTS = tuple(DERM_TABLE.values)

DIAGNOSES = {"NEV": "clark nevus", "MEL": "melanoma (in situ)", "BCC": "basal cell carcinoma"}
TEST_ONLY = "wreath"  # a value that test images alone show, in every melanoma


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training nevi and 60 melanomas as the phantom's table draws them, others in valid and test."""
    root = tmp_path_factory.mktemp("mined")
    folder, rng, rows = root / "derm7pt" / "release_v0", np.random.default_rng(3), []
    splits: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for n in range(160):
        group = "BCC" if n >= 156 else ("NEV", "MEL")[n % 2]
        split = "train" if n < 120 or group == "BCC" else ("valid", "test")[n // 2 % 2]
        profile = DERM_TABLE.sample(group, rng)
        if split == "test" and group == "MEL":
            profile["vascular_structures"] = TEST_ONLY
        splits[split].append(n)
        picture(folder / "images" / f"NEL/Nel{n:03d}.jpg", n)
        rows.append([n, DIAGNOSES[group], *(profile[c].title() for c in CONCEPTS), f"NEL/Nel{n:03d}.jpg", f"P{n}"])
    write_csv(folder / "meta" / "meta.csv", ["case_num", "diagnosis", *CONCEPTS, "derm", "case_id"], rows)
    for split, own in splits.items():
        write_csv(folder / "meta" / f"{split}_indexes.csv", ["indexes"], [[n] for n in own])
    return root


def test_a_bank_from_a_dataset(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "skin.yaml"
    assert (
        main(["concepts", "mine", "derm7pt", "--root", str(made), "--out", str(out), "DATASET.VAL_PERCENT", "0.1"]) == 0
    )
    shown = capsys.readouterr().out
    assert "120 training images of Derm7pt, task mel-vs-nev" in shown
    bank = load_bank(out)
    assert (bank.name, bank.dataset, bank.reviewed_by, list(bank.sources)) == ("skin", "Derm7pt", (), ["kawahara2019"])
    assert bank.template == load_bank("derm7pt").template
    assert list(bank.classes) == ["nevus", "melanoma"]
    strong = {"irregular dots and globules", "irregular streaks", "atypical pigment network", "blue-whitish veil"}
    assert strong <= set(bank.texts("melanoma"))
    assert {"typical pigment network", "regular dots and globules"} <= set(bank.texts("nevus"))
    assert not {"wreath-like vessels", "arborizing vessels"} & {t for c in bank.classes for t in bank.texts(c)}
    assert "{concept: irregular streaks, source: kawahara2019}  # " in out.read_text()
    assert main(["concepts", "check", str(out)]) == 0


def test_the_counts_are_those_of_the_training_rows(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made / "derm7pt/release_v0/meta"
    rows = list(csv.DictReader((folder / "meta.csv").open()))
    train = [rows[int(row["indexes"])] for row in csv.DictReader((folder / "train_indexes.csv").open())]
    irregular = [row["diagnosis"] for row in train if row["streaks"] == "Irregular"]
    mel, nev = (sum(d.startswith(name) for d in irregular) for name in ("melanoma", "clark"))
    assert main(["concepts", "mine", "derm7pt", "--root", str(made)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "irregular streaks" in line)
    assert line.split()[:6] == ["melanoma", "*", "irregular", "streaks", f"{mel}/60", f"{nev}/60"]


def interval(shown: str) -> tuple[float, float]:
    """The ends of the interval of irregular streaks."""
    low, _, high = next(line for line in shown.splitlines() if "irregular streaks" in line).split()[-3:]
    return float(low), float(high)


def test_options_change_what_is_counted(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = ["concepts", "mine", "derm7pt", "--root", str(made)]
    assert main(mine) == 0
    assert "  irregular vessels" in (merged := capsys.readouterr().out)
    assert main([*mine, "--values", "raw"]) == 0
    assert "  irregular vessels" not in (raw := capsys.readouterr().out)
    assert "  diffuse irregular pigmentation" in raw
    assert main([*mine, "--values", "binary", "--with-absent"]) == 0
    assert "no regression structures" in capsys.readouterr().out
    assert main([*mine, "--correction", "bonferroni"]) == 0
    corrected = capsys.readouterr().out
    assert interval(corrected)[0] < interval(merged)[0] < interval(merged)[1] < interval(corrected)[1]
    assert "correction: bonferroni" in corrected
    assert main([*mine, "--task", "mel-vs-rest"]) == 0
    assert "124 training images" in capsys.readouterr().out


def test_the_shots_are_those_of_the_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts are those of the images that a run with these shots and this seed trains on, and of no others."""
    out = tmp_path / "skin.yaml"
    mine = ["concepts", "mine", "derm7pt", "--root", str(made), "--out", str(out), "--force"]
    rows = {row["derm"]: row for row in csv.DictReader((made / "derm7pt/release_v0/meta/meta.csv").open())}
    counted = set()
    for shots, seed in ((16, 1), (16, 2), (30, 2)):
        run = load("derm7pt", made, NUM_SHOTS=shots, SEED=seed)
        assert len(run.train_x) == 2 * shots
        own = {datum.impath: rows[Path(datum.impath).relative_to(Path(run.dataset_dir) / "images").as_posix()]
               for datum in run.train_x}  # fmt: skip
        irregular = [row["diagnosis"] for row in own.values() if row["streaks"] == "Irregular"]
        mel, nev = (sum(d.startswith(name) for d in irregular) for name in ("melanoma", "clark"))
        (record,) = made.rglob(f"shot_{shots}-seed_{seed}.json")
        before = record.read_bytes()
        assert main([*mine, "--shots", str(shots), "--seed", str(seed)]) == 0
        assert record.read_bytes() == before
        shown = capsys.readouterr().out
        line = next(line for line in shown.splitlines() if "irregular streaks" in line)
        assert f"{mel}/{shots}" in line
        assert f"{nev}/{shots}" in line
        assert (
            f"{2 * shots} training images of Derm7pt, task mel-vs-nev ({shots} shots a class of seed {seed}, " in shown
        )
        assert f"nevus {shots}, melanoma {shots}" in shown
        bank = load_bank(out)
        assert bank.mined == Mined({"nevus": shots, "melanoma": shots}, shots, seed)
        assert f"mined from {2 * shots} labelled images, the {shots} shots of seed {seed}" in bank.summary()
        assert bank.facts()["mined"] == {"images": {"nevus": shots, "melanoma": shots}, "shots": shots, "seed": seed}
        counted.add((mel, nev))
    assert len(counted) == 3, "seeds and shots that choose alike would show nothing"


def test_images_without_labels_are_told(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(table(tmp_path), "--out", str(tmp_path / "pets.yaml"))) == 0
    assert "pets.csv: cat 20, dog 20 (known of fewer: fur_length 37)." in capsys.readouterr().out
    text = (tmp_path / "pets.yaml").read_text()
    assert "# Mined from the concept labels of 40 training rows of pets.csv: cat 20, dog 20 (known of" in text
    bank = load_bank(tmp_path / "pets.yaml")
    assert bank.mined == Mined({"cat": 20, "dog": 20})
    assert bank.summary().endswith("mined from 40 labelled images")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["derm7pt", "--shots", "0"], "--shots is the number of images a class, at least 1"),
        (["derm7pt", "--seed", "1"], "--seed is that of a run, 0 or more, and goes with its --shots"),
        (["derm7pt", "--shots", "4", "--seed", "-1"], "--seed is that of a run, 0 or more"),
        (["--csv", "x.csv", "--label", "a", "--concepts", "b", "--shots", "4"], "on which a run of a dataset trains"),
    ],
)
def test_shots_that_no_run_has(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["concepts", "mine", *more]) == 2
    assert message in capsys.readouterr().err


def table(folder: Path) -> Path:
    """20 training cats with 16 whiskers, 20 dogs with 3; the 10 test dogs all have whiskers."""
    rows = [["cat", int(n < 16), "long" if n < 4 else "short", "train"] for n in range(20)]
    rows += [["dog", int(n < 3), "long" if n < 17 else "", "train"] for n in range(20)]
    rows += [["dog", 1, "short", "test"] for _ in range(10)] + [["", 1, "short", "train"]]
    path = folder / "pets.csv"
    write_csv(path, ["animal", "Whiskers", "fur_length", "part"], rows)
    return path


def words(path: Path, *more: str) -> list[str]:
    base = ["concepts", "mine", "--csv", str(path), "--label", "animal", "--concepts", "Whiskers,fur_length"]
    return [*base, "--split", "part", *more]


def test_a_bank_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pets.yaml"
    assert main(words(table(tmp_path), "--out", str(out), "--citation", "Doe J. Pets. 2020.")) == 0
    captured = capsys.readouterr()
    assert "40 training rows of pets.csv" in captured.out
    assert ["cat", "*", "whiskers", "16/20", "3/20"] in [line.split()[:5] for line in captured.out.splitlines()]
    assert ["dog", "*", "long", "fur", "length", "17/17", "4/20"] in [
        line.split()[:7] for line in captured.out.splitlines()
    ]
    assert "only 1 of the 4 to 10" in captured.err
    bank = load_bank(out)
    assert {name: bank.texts(name) for name in bank.classes} == {
        "cat": ["short fur length", "whiskers"], "dog": ["long fur length"],
    }  # fmt: skip
    assert list(bank.sources) == ["doe2020"]


def test_without_a_split_every_row_counts_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words(table(tmp_path))
    at = command.index("--split")
    assert main([*command[:at], *command[at + 2 :]]) == 0
    captured = capsys.readouterr()
    assert "every row of" in captured.err
    assert "50 training rows" in captured.out


def test_nothing_is_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pets.yaml"
    out.write_text("mine")
    assert main(words(table(tmp_path), "--out", str(out))) == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(words(table(tmp_path), "--out", str(out), "--force")) == 0
    assert load_bank(out).texts("dog") == ["long fur length"]


def test_a_class_for_which_nothing_speaks_makes_no_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = table(tmp_path), tmp_path / "pets.yaml"
    edit(path, "dog,0,long", "dog,0,short")
    assert main(words(path, "--out", str(out))) == 2
    captured = capsys.readouterr()
    assert "no concept speaks for 'dog'" in captured.err
    assert "whiskers" in captured.out, "the table is shown all the same"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pets.csv"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--concepts", "Whisker"], "Did you mean 'Whiskers'"),
        (["--label", "animals"], "Did you mean 'animal'"),
        (["--train-value", "training"], "no training rows; its column 'part' has ['test', 'train']"),
        (["--top", "3"], "--top must be 4 to 10"),
        (["--confidence", "95"], "between 0 and 1"),
        (["--out", "pets.txt"], "YAML"),
        (["derm7pt"], "not both"),
    ],
)
def test_wrong_words(tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(table(tmp_path), *more)) == 2
    assert message in capsys.readouterr().err


def test_a_dataset_without_concept_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trees_pneumonia import LAYOUTS

    next(iter(LAYOUTS.values())).make(tmp_path)
    assert main(["concepts", "mine", "pneumonia", "--root", str(tmp_path)]) == 2
    assert "Pneumonia has no concept labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("citation", "key"),
    [("Kawahara J, et al. 2019;23(2):538-546.", "kawahara2019"), ("Müller N. A title.", "muller"), ("...", "labels")],
)
def test_source_keys(citation: str, key: str) -> None:
    assert source_key(citation) == key
