"""Every bank that ships: what its concepts are like, and that its page tells the truth."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from xcoop.backbones.openai import ClipBackbone
from xcoop.concepts import ConceptBank, load_bank
from xcoop.concepts.bank import bank_names, same_name
from xcoop.concepts.sentences import clinical_sentences, fill
from xcoop.config.defaults import get_cfg
from xcoop.config.merge import merge_file
from xcoop.config.plugins import plugin_path

PAGE = Path(__file__).parents[2] / "docs" / "concept_banks.md"
FEWER = {
    "phantom": {"basal cell carcinoma": 2, "seborrheic keratosis": 3, "miscellaneous lesion": 2},  # it draws no more
    "pneumonia_released": {"normal": 2},  # as the released code has it
}
WORDS = 6  # the most in a concept
COPIES = {"busi_biomedcoop": "busi", "dermamnist_biomedcoop": "dermamnist", "octmnist_biomedcoop": "octmnist"}


def concepts(bank: ConceptBank) -> list[tuple[str, str]]:
    return [(classname, text) for classname in bank.classes for text in bank.texts(classname)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


# Words of class names that name no diagnosis by themselves.
GENERIC = words("a and background benign cell cells left lesion lesions like lung lungs normal of or right skin tissue")


@pytest.mark.parametrize("name", bank_names())
class TestEveryBank:
    def test_four_to_ten_concepts_a_class(self, name: str) -> None:
        numbers = {classname: len(of_class) for classname, of_class in load_bank(name).classes.items()}
        odd = {classname: number for classname, number in numbers.items() if not 4 <= number <= 10}
        assert odd == FEWER.get(name, {})

    def test_concepts_are_short_and_plain(self, name: str) -> None:
        for _, text in concepts(load_bank(name)):
            assert 1 <= len(text.split()) <= WORDS, text
            assert text[0].islower(), text
            assert text[-1].isalnum(), text

    def test_no_concept_stands_in_all_classes(self, name: str) -> None:
        bank = load_bank(name)
        assert not set.intersection(*({same_name(text) for text in bank.texts(each)} for each in bank.classes))

    def test_no_concept_has_a_telling_word_of_its_class(self, name: str) -> None:
        for classname, text in concepts(load_bank(name)):
            assert not words(classname) & words(text) - GENERIC, (classname, text)

    def test_every_source_has_authors_and_a_year(self, name: str) -> None:
        for key, citation in load_bank(name).sources.items():
            if key == "tables":  # of the phantom: our own
                continue
            assert re.search(rf"\b{key[-4:]}\b", citation), "a key ends in the year of its citation"
            assert re.fullmatch(r"\D+\d{4}", key), key
            assert len(citation) > 40, citation
            assert citation.endswith("."), citation

    def test_each_concept_fits_alone(self, name: str, tiny_backbone: ClipBackbone) -> None:
        bank = load_bank(name)
        for classname, text in concepts(bank):
            sentence = fill(bank.template, classname, [text])
            assert tiny_backbone.count_tokens(sentence) <= tiny_backbone.context_length == 77

    def test_the_template_reads(self, name: str) -> None:
        bank = load_bank(name)
        assert bank.template.endswith(".")
        wrong = [each for each in bank.classes if re.search(r"\ba \{class\}", bank.template) and each[0] in "aeio"]
        assert not wrong, f"{bank.template} with {wrong}"

    def test_its_row_on_the_page(self, name: str) -> None:
        numbers = sorted(len(of_class) for of_class in load_bank(name).classes.values())
        spread = f"{numbers[0]}-{numbers[-1]}" if numbers[0] < numbers[-1] else str(numbers[0])
        assert f"| `{name}` | {len(numbers)} | {spread} |" in PAGE.read_text(encoding="utf-8")


def test_one_citation_a_source() -> None:
    """A paper that several banks cite is cited in the same words."""
    cited: dict[str, set[str]] = {}
    for name in bank_names():
        for key, citation in load_bank(name).sources.items():
            cited.setdefault(key, set()).add(citation)
    assert {key: texts for key, texts in cited.items() if len(texts) > 1} == {}


@pytest.mark.parametrize(("copy", "original"), COPIES.items())
def test_the_same_pictures_have_the_same_concepts(copy: str, original: str) -> None:
    ours, theirs = load_bank(copy), load_bank(original)
    assert list(ours.classes.values()) == list(theirs.classes.values())
    assert ours.sources == theirs.sources


def test_the_page_lists_no_other_bank() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(rows) == bank_names()


def test_the_released_config_says_the_released_sentences() -> None:
    cfg = get_cfg()
    merge_file(cfg, plugin_path("configs", "trainers", "XCoOp", "released_vit_b16.yaml"))
    bank = load_bank(cfg.DATASET.CONCEPT_BANK).for_classes(["normal", "pneumonia"])
    said = [text for name in bank.classes for text in clinical_sentences(bank, name, lambda text: True)]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()  # of its CLINICAL_PROMPTS with these class names
    assert digest == "3dd2ad7f7d8c7cce2c8a4350bd6798ae9292262b5b6b406acc9cf4789bcaa9be"
