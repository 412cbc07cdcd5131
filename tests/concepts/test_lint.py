"""The linter finds what is planted, at its place, and nothing in a bank that is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from xcoop.backbones import backbone_names, text_limits
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.phantom import load_state_dict, pretrained_path
from xcoop.cli import main
from xcoop.concepts.bank import bank_names
from xcoop.concepts.lint import Finding, Limit, Use, check

NEVUS = ["typical pigment network", "regular globules", "even colour", "comma vessels"]
MELANOMA = ["atypical pigment network", "irregular streaks", "blue-whitish veil", "white scar-like areas"]


def bank(folder: Path, melanoma: list[str] | None = None, **changes: Any) -> Path:
    """A sound bank of two classes, with changes; `melanoma`: the concepts of the second class."""
    classes = {"nevus": NEVUS, "melanoma": MELANOMA if melanoma is None else melanoma} | changes.pop("classes", {})
    content = {
        "name": "skin",
        "version": "1",
        "dataset": "Skin",
        "template": "a dermoscopic photo of a {class}, {concepts}.",
        "reviewed_by": ["A. Clinician"],
        "sources": {"book": "A book of dermoscopy. 1999."},
        "classes": {name: [{"concept": text, "source": "book"} for text in texts] for name, texts in classes.items()},
    }
    path = folder / "skin.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False), encoding="utf-8")
    return path


def places(findings: list[Finding]) -> list[tuple[str, str, str, str]]:
    return [(finding.severity, finding.rule, finding.classname, finding.concept) for finding in findings]


def short(length: int) -> Limit:
    return Limit("tiny", lambda text: len(text) <= length)


def test_a_sound_bank_has_no_findings(tmp_path: Path) -> None:
    assert check(bank(tmp_path), [short(300)], [Use("Skin", "all", ("nevus", "melanoma"))]) == []


@pytest.mark.parametrize(
    ("concept", "severity", "rule"),
    [
        ("treated by excision", "error", "nonvisual"),
        ("risk in the elderly", "error", "nonvisual"),
        ("itching", "error", "nonvisual"),
        ("atypical melanocytes", "error", "nonvisual"),
        ("melanoma-like streaks", "error", "diagnosis"),
        ("melanomatous island", "error", "diagnosis"),
        ("naevus-like globules", "warning", "diagnosis"),
        ("malignant streaks", "error", "diagnosis"),
        ("benign look", "warning", "diagnosis"),
        ("possible ulceration", "warning", "hedge"),
        ("no symmetry", "note", "negation"),
        ("absence of hairs", "note", "negation"),
        ("Blue whitish veils", "warning", "spelling"),
        ("even color", "warning", "spelling"),
        ("ulceration.", "warning", "template"),
    ],
)
def test_one_faulty_concept(tmp_path: Path, concept: str, severity: str, rule: str) -> None:
    assert (severity, rule, "melanoma", concept) in places(check(bank(tmp_path, [*MELANOMA, concept])))


def test_the_level_of_a_diagnosis_in_other_words(tmp_path: Path) -> None:
    """An error where the words mean the own class alone; a warning where they mean others, too, or alone."""
    more = {
        "carcinoma": ["ulcer", "crust", "arborizing vessels", "neoplastic nests"],
        "lentigo": ["moles", "a", "b", "c"],
    }
    findings = check(bank(tmp_path, [*MELANOMA, "cutaneous malignancies"], classes=more))
    assert [(one.severity, one.classname, one.message) for one in findings] == [
        ("warning", "melanoma", "says the diagnosis of its own class, and of 'carcinoma' in other words, "
         "'malignancies' (malignancy)"),
        ("warning", "carcinoma", "says the diagnosis of its own class, and of 'melanoma' in other words, 'neoplastic' "
         "(tumor)"),
        ("warning", "lentigo", "says the diagnosis of 'nevus' in other words, 'moles' (nevus)"),
    ]  # fmt: skip


def test_an_alias_is_a_name_of_its_class(tmp_path: Path) -> None:
    path = bank(tmp_path, [*MELANOMA, "MM-like dots"], aliases={"melanoma": ["mm"], "nevus": ["benign"]})
    assert places(check(path)) == [("error", "diagnosis", "melanoma", "MM-like dots")]
    two = [Use("Skin", "two", ("mm", "benign")), Use("Skin", "same", ("mm", "melanoma", "nevus"))]
    findings = [finding for finding in check(path, uses=two) if finding.rule == "task"]
    assert [finding.message.split(": ")[0] for finding in findings] == ["Skin, task same"]
    assert "'mm' and 'melanoma' of the dataset are both 'melanoma'" in findings[0].message


def test_shared_concepts_and_classes_that_a_task_lacks(tmp_path: Path) -> None:
    texts = {"nevus": [*NEVUS, "dots"], "melanoma": [*MELANOMA, "dots"]}
    assert places(check(bank(tmp_path, classes=texts))) == [("error", "shared", "", "dots")]
    three = texts | {"keratosis": ["milia-like cysts", "fissures", "sharp border", "hairpin vessels"]}
    path = bank(tmp_path, classes=three)
    assert places(check(path)) == [("note", "shared", "", "dots")]
    uses = [Use("Skin", "two", ("melanoma", "nevus")), Use("Skin", "three", tuple(three))]
    findings = check(path, uses=uses)
    assert places(findings) == [("error", "task", "", "dots"), ("note", "shared", "", "dots")]
    assert "Skin, task two (melanoma, nevus)" in findings[0].message


def test_classes_that_nothing_tells_apart(tmp_path: Path) -> None:
    classes = {"keratosis": ["milia-like cysts", "fissures", "dots", "crypts"]}
    findings = check(bank(tmp_path, classes=classes | {"wart": ["Dots", *classes["keratosis"][:2], "crypt"]}))
    assert [place[:3] for place in places(findings) if place[0] == "error"] == [("error", "alike", "wart")]
    findings = check(bank(tmp_path), uses=[Use("Skin", "all", ("nevus", "lentigo", "melanoma"))])
    assert places(findings) == [("error", "task", "lentigo", "")]


@pytest.mark.parametrize(("texts", "count"), [(MELANOMA[:3], 3), ([f"sign {n}" for n in "abcdefghijk"], 11)])
def test_too_few_or_many(tmp_path: Path, texts: list[str], count: int) -> None:
    findings = check(bank(tmp_path, texts))
    assert places(findings) == [("warning", "number", "melanoma", "")]
    assert findings[0].message.startswith(f"{count} concepts")


def test_context_lengths(tmp_path: Path) -> None:
    """By letters: all concepts of nevus take 102, of melanoma 121, half of them at most 79; each alone at most 60."""
    path = bank(tmp_path)
    assert check(path, [short(121)]) == []
    assert places(check(path, [short(120)])) == [("note", "context", "melanoma", "")]
    two = [("note", "context", "nevus", ""), ("note", "context", "melanoma", "")]
    assert places(check(path, [short(60)])) == two
    assert places(check(path, [short(59)])) == [
        ("error", "context", "melanoma", "atypical pigment network"),
        ("note", "context", "nevus", ""),
    ]


def test_sources_and_review(tmp_path: Path) -> None:
    sources = {"book": "A book of dermoscopy, without a year.", "web": "A page on the web, 2001.", "x": "short"}
    findings = check(bank(tmp_path, sources=sources, reviewed_by=[]))
    assert [(finding.severity, finding.rule) for finding in findings] == [("warning", "source")] * 4 + [
        ("note", "review")
    ]
    assert [finding.message.split("'")[1] for finding in findings[:4]] == ["book", "web", "x", "x"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a photo of a {class}, {concepts}", "full stop"),
        ("a photo of a {class} , {concepts}.", "blank"),
        ("{class}: {concepts}.", "kind of image"),
        ("a photo of an {class}, {concepts}.", "an nevus"),
    ],
)
def test_templates(tmp_path: Path, template: str, message: str) -> None:
    findings = check(bank(tmp_path, template=template))
    assert {finding.rule for finding in findings} == {"template"}
    assert message in findings[0].message


def test_a_broken_bank_is_a_finding_and_a_missing_one_an_error(tmp_path: Path) -> None:
    findings = check(bank(tmp_path, melanoma=[]))
    assert places(findings) == [("error", "schema", "", "")]
    assert "class 'melanoma' has no concepts" in findings[0].message
    with pytest.raises(FileNotFoundError, match="derm7pt"):
        check("derm7p")


def test_limits_are_those_of_the_towers(tiny_backbone: ClipBackbone) -> None:
    text = "a dermoscopic photo of a melanoma, blue-whitish veil."
    limits = text_limits("ViT-B/16")
    assert limits is not None
    assert limits.count_tokens(text) == len(tiny_backbone.tokenize(text)[0].nonzero())
    assert len(load_state_dict(pretrained_path())["positional_embedding"]) == text_limits("phantom").context_length
    # of these, only the files tell
    assert {name for name in backbone_names() if text_limits(name) is None} == {
        *("huggingface", "open_clip", "BiomedCLIP", "MedSigLIP", "PMC-CLIP", "pmc_clip", "ConceptCLIP")
    }
    with pytest.raises(ValueError, match="Did you mean 'ViT-B/16'"):
        text_limits("ViT-B/17")


class TestCommand:
    def test_shipped_banks_have_no_errors(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["concepts", "check"]) == 0, capsys.readouterr().out
        assert f"{len(bank_names())} banks: 0 errors" in capsys.readouterr().out

    def test_errors_end_in_1_and_name_the_place(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = bank(tmp_path, [*MELANOMA, "painful nodule", "very " * 75 + "dark"])
        assert main(["concepts", "check", str(path), "derm7pt", "--backbone", "ViT-B/16", "RN50"]) == 1
        shown = capsys.readouterr().out
        assert "error    nonvisual  melanoma: painful nodule: 'painful' is not visible (symptoms" in shown
        assert "too long for the text context of ViT-B/16, RN50 even alone" in shown
        assert "2 banks: 2 errors, 0 warnings" in shown

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = bank(tmp_path, reviewed_by=[])
        assert main(["concepts", "check", str(path), "--json"]) == 0
        finding = {"severity": "note", "rule": "review", "bank": "skin", "message": "reviewed by nobody so far"}
        assert json.loads(capsys.readouterr().out) == [finding | {"classname": "", "concept": ""}]

    @pytest.mark.parametrize(
        ("words", "message"),
        [(["derm7p"], "Did you mean 'derm7pt'"), (["--backbone", "ViT-B/17"], "Did you mean 'ViT-B/16'")],
    )
    def test_unknown_names(self, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["concepts", "check", *words]) == 2
        assert message in capsys.readouterr().err
