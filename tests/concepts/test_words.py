"""Words that no image shows are found in any form, and visible ones are let pass; so are names of classes; tables."""

from __future__ import annotations

import pytest

from xcoop.concepts.words import (
    Wording,
    found_in,
    load_wording,
    names_class,
    nonvisual,
    nonvisual_groups,
    normal,
)

SKIN, SLIDE = "a dermoscopic photo of a {class}, {concepts}.", "a histopathological image of {class}, {concepts}."


@pytest.mark.parametrize(
    ("text", "words", "groups"),
    [
        ("itchy plaque in the elderly", ["itchy", "elderly"], ["symptoms", "epidemiology"]),
        ("treated with antibiotics", ["treated", "antibiotics"], ["treatment"] * 2),
        ("shrinks under chemotherapy", ["chemotherapy"], ["treatment"]),
        ("patch of a 60-year-old male smoker", ["year", "male", "smoker"], ["epidemiology"] * 3),
        ("Risk-factors: age", ["risk", "age"], ["epidemiology"] * 2),
        ("fever, cough and chest pain", ["fever", "cough", "pain"], ["symptoms"] * 3),
        ("foul odour", ["foul", "odour"], ["symptoms"] * 2),
        ("rapidly growing nodule", ["rapidly", "growing"], ["history"] * 2),
        ("acute onset", ["acute", "onset"], ["history"] * 2),
        ("elevated levels of serum creatinine", ["elevated levels", "serum", "creatinine"], ["laboratory"] * 3),
        ("opacity due to viral infection", ["due to", "viral", "infection"], ["cause"] * 3),
        ("life-threatening mass", ["life threatening"], ["prognosis"]),
        ("poor prognosis and low survival", ["prognosis", "survival"], ["prognosis"] * 2),
        ("impaired renal function", ["impaired", "function"], ["function"] * 2),
        ("diagnosed by biopsy", ["diagnosed", "biopsy"], ["judgement", "laboratory"]),
        ("Kellgren-Lawrence changes", ["kellgren"], ["judgement"]),
    ],
)
def test_what_no_image_shows(text: str, words: list[str], groups: list[str]) -> None:
    found = nonvisual(text, SKIN)
    assert [*found] == words
    assert [group.name for group in found.values()] == groups


@pytest.mark.parametrize(
    "text",
    [
        "atypical pigment network", "image of large margins", "hard exudates", "large cup-to-disc ratio",
        "surgical clips over the left lung", "bluish resection margin", "acute costophrenic angle", "air-fluid level",
        "flattening at the level of the diaphragm", "painted pattern", "swollen folds", "confirmed border",
        "soft tissue swelling", "exophytic growth", "surface keratin", "menisci", "trace effusion",
        "acute angles", "dark peripheral rim", "hairpin vessels", "scar-like patch",
    ],
)  # fmt: skip
def test_what_an_image_shows(text: str) -> None:
    assert not nonvisual(text, SKIN)


def test_cells_are_visible_on_a_slide_alone() -> None:
    text = "hyperchromatic nuclei with prominent nucleoli"
    assert [*nonvisual(text, SKIN)] == ["hyperchromatic", "nucleoli"]
    assert not nonvisual(text, SLIDE)
    assert not nonvisual(text, "a microscopic image of a {class}, {concepts}.")
    assert not nonvisual(text), "without a word on the kind of image it is let pass"
    assert [*nonvisual("itchy nucleoli", SLIDE)] == ["itchy"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Blue-grey globules", "blue gray globule"),
        ("tumours", "Tumor"),
        ("naevi", "nevus"),
        ("metastases", "metastasis"),
        ("bullae", "bulla"),
        ("oedematous areas", "edematous area"),
        ("localised opacities", "localized opacity"),
        ("masses", "mass"),
        ("caecum", "Cecum"),
    ],
)
def test_spelling_and_number_do_not_count(one: str, other: str) -> None:
    assert normal(one) == normal(other)


def test_words_are_compared_whole() -> None:
    assert normal("dots") != normal("dotted")
    assert found_in("imaging of ages", [("age",)]) == ["ages"]
    assert found_in("one two three", [("two",), ("two", "three")]) == ["two three"], "the longest of those that overlap"
    assert found_in("a b a c", [("a",)], exempt=[("a", "b")]) == ["a"]


def test_every_entry_is_found_in_itself() -> None:
    """An entry that its own spelling does not match would never be found."""
    for group in nonvisual_groups():
        for phrase in group.words:
            text = " ".join(word.replace("*", "q") for word in phrase)
            assert found_in(text, group.words), (group.name, phrase)
        assert len(set(group.words)) == len(group.words), group.name


@pytest.mark.parametrize(
    ("text", "classname", "words"),
    [
        ("normal heart size", "normal", []),
        ("abnormal contour", "normal", []),
        ("benign look", "benign tumor", []),
        ("tumor with angular margins", "benign tumor", []),
        ("benign-looking tumours", "benign tumor", ["benign", "tumours"]),
        ("tumor of the kidney", "kidney tumor", ["kidney", "tumor"]),
        ("smooth kidney contour", "normal kidney", []),
        ("near the liver", "liver", ["liver"]),
        ("simple cysts", "cyst kidney", ["cysts"]),
        ("glaucomatous cupping", "glaucoma", ["glaucomatous"]),
        ("pneumonic infiltrate", "bacterial pneumonia", ["pneumonic"]),
        ("nevi", "melanocytic nevus", ["nevi"]),
        ("carcinoma nests", "basal cell carcinoma", ["carcinoma"]),
        ("basal cells", "basal cell carcinoma", []),
        ("severe narrowing", "severe", []),
        ("blue ulcers", "ulcerative colitis", []),
        ("ulceration", "ulcerative colitis", []),
        ("arborizing vessels", "vascular lesion", []),
        ("scar-like patch", "benign keratosis-like lesions", []),
        ("keratotic plug", "benign keratosis-like lesions", []),
    ],
)
def test_names_of_classes(text: str, classname: str, words: list[str]) -> None:
    assert names_class(text, classname) == words


# The words of concept tables.


def test_plain_wording() -> None:
    wording = Wording()
    assert wording.values({"a": "1", "b": " No ", "c": "", "d": "NaN", "e": "Round"}, "merged") == {
        "a": "present", "b": "absent", "e": "round",
    }  # fmt: skip
    assert wording.phrase("pigment_network", "atypical") == "atypical pigment network"
    assert wording.phrase("BlueWhitish_veil", "present") == "blue whitish veil"
    assert wording.phrase("Scale", "absent") == "no scale"


def test_derm7pts_wording() -> None:
    wording = load_wording("phantom", "derm7pt")  # the first that has a file
    row = {"pigmentation": "Diffuse irregular", "vascular_structures": "dotted", "streaks": "absent"}
    assert wording.values(row, "merged") == {
        "pigmentation": "irregular", "vascular_structures": "irregular", "streaks": "absent",
    }  # fmt: skip
    assert wording.values(row, "raw")["pigmentation"] == "diffuse irregular"
    assert wording.values(row, "binary") == {
        "pigmentation": "present", "vascular_structures": "present", "streaks": "absent",
    }  # fmt: skip
    assert wording.phrase("blue_whitish_veil", "present") == "blue-whitish veil"
    assert wording.phrase("blue_whitish_veil", "absent") == "no blue-whitish veil"
    assert wording.phrase("vascular_structures", "linear irregular") == "linear irregular vessels"


def test_skincons_wording_knows_its_columns_in_any_writing() -> None:
    wording = load_wording("skincon")
    for column in ("Brown(Hyperpigmentation)", "brown hyperpigmentation"):
        assert wording.phrase(column, "present") == "brown hyperpigmentation"
    assert wording.phrase("Papule", "present") == "papule"
