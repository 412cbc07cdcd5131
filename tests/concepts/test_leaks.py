"""Concepts that say the diagnosis in other words are found, and innocent neighbours of such words are let pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from xcoop.concepts.bank import bank_names
from xcoop.concepts.lint import Finding, check
from xcoop.concepts.words import families, found_in, leaks
from xcoop.config.plugins import plugin_path
from xcoop.utils.reading import read_yaml

PLANTED = read_yaml(Path(__file__).with_name("leaks.yaml"))
KNOWN_ALARMS = {"basophilic rim"}  # of a lymphocyte; the word is the adjective of another class of its bank

Place = tuple[str, str, str]


def told(kind: str, folder: Path) -> Iterator[tuple[Place, list[Finding]]]:
    """The findings on the diagnosis, of each planted concept, all of a bank's put into it at once."""
    for bank, classes in PLANTED[kind].items():
        content = read_yaml(plugin_path("concept_banks", f"{bank}.yaml"))
        for name, texts in classes.items():
            content["classes"][name] += [{"concept": text, "source": next(iter(content["sources"]))} for text in texts]
        path = folder / f"{bank}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        found = [finding for finding in check(path) if finding.rule == "diagnosis"]
        for name, texts in classes.items():
            for text in texts:
                yield (bank, name, text), [one for one in found if (one.classname, one.concept) == (name, text)]


def test_every_planted_leak_is_found(tmp_path: Path) -> None:
    """80 in 16 banks; before there were families of words, this rule found 9 of them, and all rules 17."""
    found = dict(told("leaks", tmp_path))
    assert len(found) == 80
    assert [place for place, findings in found.items() if not findings] == []
    assert sum(finding.severity == "error" for (finding,) in found.values()) == 65


def test_neighbours_of_such_words_are_let_pass(tmp_path: Path) -> None:
    found = dict(told("innocent", tmp_path))
    assert len(found) == 59
    assert {text for (_, _, text), findings in found.items() if findings} == KNOWN_ALARMS


@pytest.mark.parametrize("name", bank_names())
def test_the_shipped_banks_say_no_diagnosis(name: str) -> None:
    assert [finding for finding in check(name) if finding.rule == "diagnosis"] == []


def said(text: str, *classes: str | tuple[str, ...]) -> list[tuple[list[str], list[str], str]]:
    names: Mapping[str, tuple[str, ...]] = {
        name[0]: name for name in (one if isinstance(one, tuple) else (one,) for one in classes)
    }
    return [tuple(leak) for leak in leaks(text, names)]  # type: ignore[misc]


def test_a_family_means_the_classes_that_are_of_it() -> None:
    assert said("malignant look", "benign tumor", "malignant tumor", "normal scan") == [
        (["malignant"], ["malignant tumor"], "malignancy"),
        (["malignant"], ["benign tumor", "malignant tumor"], "tumor"),
    ]
    assert said("tumour margin", "benign tumor", "malignant tumor") == [], "all classes are tumors: it tells nothing"
    assert said("cancer", "apple", "pear") == [], "none is"
    assert said("no abnormality", "tumor", "no tumor") == [(["no abnormality"], ["no tumor"], "health")]
    assert said("neoplastic look", "neoplastic", "non-neoplastic") == [(["neoplastic"], ["neoplastic"], "tumor")]


def test_aliases_count_as_a_whole() -> None:
    pituitary, bcc = ("pituitary tumor", "pituitary"), ("basal cell carcinoma", "bcc", "rodent ulcer")
    assert said("pituitary stalk", pituitary, "normal brain") == [], "an organ alone is no diagnosis"
    assert said("BCCs", bcc, "nevus") == [(["bccs"], ["basal cell carcinoma"], "")]
    assert said("ulcer", bcc, "nevus") == []


def test_every_word_of_a_family_is_found_in_itself() -> None:
    for family in families():
        for phrase in (*family.words, *family.classes):
            text = " ".join(word.replace("*", "q") for word in phrase)
            assert found_in(text, (*family.words, *family.classes), family.exempt), (family.name, phrase)
            assert family.holds(text), (family.name, phrase)
