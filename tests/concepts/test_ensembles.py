"""Many sentences a class, from a bank or a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xcoop.concepts import load_bank
from xcoop.concepts.bank import bank_names
from xcoop.concepts.ensembles import PHRASES, bank_ensemble, read_ensemble


def anything(text: str) -> bool:
    return True


def test_each_concept_comes_before_the_next_phrase() -> None:
    bank = load_bank("phantom").for_classes(["basal cell carcinoma", "nevus"])
    carcinoma, nevus = bank_ensemble(bank, 6, anything)
    assert carcinoma[:3] == [
        "a dermoscopic photo of a basal cell carcinoma, arborizing vessels.",
        "a dermoscopic photo of a basal cell carcinoma, no pigment network.",
        "a basal cell carcinoma with arborizing vessels.",
    ]
    assert [len(carcinoma), len(nevus)] == [6, 6]
    assert nevus[5] == "a nevus with typical pigment network."


@pytest.mark.parametrize("name", bank_names())
def test_every_bank_makes_fifty_whole_sentences_a_class(name: str) -> None:
    bank = load_bank(name)
    for classname, sentences in zip(bank.classes, bank_ensemble(bank, 50, anything), strict=True):
        assert len(sentences) == 50
        different = len(bank.texts(classname)) * (1 + len(PHRASES))
        assert len(set(sentences)) == min(50, different)
        said = " ".join(sentences)
        assert all(text in said for text in bank.texts(classname))
        assert classname.replace("_", " ") in said
        assert "{" not in said


def test_what_does_not_fit_is_left_out_and_said_if_nothing_does() -> None:
    bank = load_bank("phantom").for_classes(["nevus"])
    (short,) = bank_ensemble(bank, 50, lambda text: len(text) <= 25)
    assert set(short) == {"comma vessels in a nevus."}
    with pytest.raises(ValueError, match=r"phantom.yaml: class 'nevus': no sentence fits"):
        bank_ensemble(bank, 50, lambda text: False)


def test_a_file_is_read_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"Blue-Nevus": ["one.", "two.", "three."], "lung": ["only."], "other": ["unused."]}))
    assert read_ensemble(path, ["lung", "blue_nevus"], 2) == [["only.", "only."], ["one.", "two."]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "an object with a list of sentences a class is needed, not list"),
        ("{", "not valid JSON"),
        ('{"lung": []}', "class 'lung': a list of sentences"),
        ('{"lung": "one"}', "class 'lung'"),
        ('{"lung": ["one", 2]}', "class 'lung'"),
        ('{"lung": [" "]}', "class 'lung'"),
        ('{"lungs": ["one"]}', r"no sentences for 'lung' \(nearest: 'lungs'\)"),
    ],
)
def test_a_faulty_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"sentences\.json.*{message}"):
        read_ensemble(path, ["lung"], 2)
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        read_ensemble(tmp_path / "missing.json", ["lung"], 2)
