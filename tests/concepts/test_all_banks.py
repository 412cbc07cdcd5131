"""Every bank that ships: what its concepts are like, and that its page tells the truth."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch

from xcoop.backbones.openai import ClipBackbone
from xcoop.concepts import load_bank
from xcoop.concepts.bank import bank_names, same_name
from xcoop.concepts.sentences import (
    KNOWLEDGE,
    PHRASES,
    bank_ensemble,
    bank_or_control,
    bank_sentences,
    clinical_features,
    clinical_sentences,
    groups,
)
from xcoop.config.merge import merge_file
from xcoop.config.plugins import get_cfg, plugin_path

PAGE = Path(__file__).parents[2] / "docs" / "concept_banks.md"
FEWER = {
    "phantom": {"basal cell carcinoma": 2, "seborrheic keratosis": 3, "miscellaneous lesion": 2},  # it draws no more
    "pneumonia_released": {"normal": 2},  # as the released code has it
}
WORDS = 6  # the most in a concept
COPIES = {"busi_biomedcoop": "busi", "dermamnist_biomedcoop": "dermamnist", "octmnist_biomedcoop": "octmnist"}

# As the archives of public sets call the folders of their classes.
FOLDERS = {
    "bloodmnist": "basophil, eosinophil, erythroblast, ig, lymphocyte, monocyte, neutrophil, platelet",
    "btmri": "glioma, meningioma, notumor, pituitary",
    "busi": "benign, malignant, normal",
    "chmnist": "01_TUMOR, 02_STROMA, 03_COMPLEX, 04_LYMPHO, 05_DEBRIS, 06_MUCOSA, 07_ADIPOSE, 08_EMPTY",
    "covid_19": "COVID, Lung_Opacity, Normal, Viral Pneumonia",
    "ctkidney": "Cyst, Normal, Stone, Tumor",
    "isic2018": "akiec, bcc, bkl, df, mel, nv, vasc",
    "dermamnist": "akiec, bcc, bkl, df, mel, nv, vasc",
    "kneexray": "0, 1, 2, 3, 4",
    "kvasir": "dyed-lifted-polyps, dyed-resection-margins, esophagitis, normal-cecum, normal-pylorus, normal-z-line, "
    "polyps, ulcerative-colitis",
    "lungcolon": "colon_aca, colon_n, lung_aca, lung_n, lung_scc",
    "med_node": "melanoma, naevus",
    "octmnist": "CNV, DME, DRUSEN, NORMAL",
    "pathmnist": "ADI, BACK, DEB, LYM, MUC, MUS, NORM, STR, TUM",
    "pneumonia": "NORMAL, PNEUMONIA",
    "retina": "cataract, diabetic_retinopathy, glaucoma, normal",
    "retinamnist": "No_DR, Mild, Moderate, Severe, Proliferate_DR",
    "skincon": "benign, malignant, non-neoplastic",
}


@pytest.mark.parametrize("name", bank_names())
class TestEveryBank:
    """What the linter finds, which knows no errors in any of them, is tested with it."""

    def test_concepts_are_few_short_and_plain(self, name: str) -> None:
        bank = load_bank(name)
        assert bank.name == name
        numbers = {classname: len(concepts) for classname, concepts in bank.classes.items()}
        assert {classname: n for classname, n in numbers.items() if not 4 <= n <= 10} == FEWER.get(name, {})
        for text in (text for classname in bank.classes for text in bank.texts(classname)):
            assert 1 <= len(text.split()) <= WORDS, text
            assert text[0].islower(), text
            assert text[-1].isalnum(), text
            assert not [each for each in bank.classes if each != "normal" and same_name(each) in same_name(text)]
        first, last = min(numbers.values()), max(numbers.values())
        spread = f"{first}-{last}" if first < last else str(first)
        assert f"| `{name}` | {len(numbers)} | {spread} |" in PAGE.read_text(encoding="utf-8")

    def test_every_source_has_authors_and_a_year(self, name: str) -> None:
        for key, citation in load_bank(name).sources.items():
            if key == "tables":  # of the phantom: our own
                continue
            assert re.search(rf"\b{key[-4:]}\b", citation), "a key ends in the year of its citation"
            assert re.fullmatch(r"\D+\d{4}", key), key
            assert len(citation) > 40, citation
            assert citation.endswith("."), citation

    def test_its_sentences_with_a_real_tokenizer(self, name: str, tiny_backbone: ClipBackbone) -> None:
        bank = load_bank(name)
        assert bank.template.endswith(".")
        for sentences in bank_sentences(tiny_backbone, bank):
            assert len(sentences) == 1, "CLIP's 77 tokens hold every class of the shipped banks in one sentence"
        features = clinical_features(tiny_backbone, bank)
        assert features.shape == (len(bank.classes), tiny_backbone.embed_dim)
        assert not features.requires_grad
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(bank.classes)))
        assert len(torch.unique(features, dim=0)) == len(bank.classes)

    def test_fifty_whole_sentences_a_class(self, name: str) -> None:
        bank = load_bank(name)
        for classname, sentences in zip(bank.classes, bank_ensemble(bank, 50, lambda _: True), strict=True):
            concepts = bank.texts(classname)
            different = len(groups(concepts, min(3, len(concepts)))) * (1 + len(PHRASES))
            assert (len(sentences), len(set(sentences))) == (50, min(50, different))
            said = " ".join(sentences)
            assert all(text in said for text in [*concepts, classname.replace("_", " ")])
            assert "{" not in said

    def test_every_control_of_it(self, name: str) -> None:
        bank = load_bank(name)
        for knowledge in KNOWLEDGE:
            asked = bank_or_control(bank, knowledge, 1)
            assert (list(asked.classes), asked.sha256) == (list(bank.classes), bank.sha256)
            for classname in asked.classes:
                for text in clinical_sentences(asked, classname, lambda _: True):
                    assert "{" not in text
                    assert same_name(classname) in same_name(text)


@pytest.mark.parametrize(("bank", "names"), FOLDERS.items())
def test_folders_of_published_sets_are_served(bank: str, names: str) -> None:
    found = load_bank(bank).match(names.split(", "))
    assert list(found.values()) == sorted(set(found.values()), key=[*found.values()].index), "each its own class"


def test_what_is_neighbouring_is_no_alias() -> None:
    for bank, name in (("derm7pt", "benign"), ("breastmnist", "benign"), ("pneumonia", "covid"), ("btmri", "tumor")):
        with pytest.raises(ValueError, match="the bank has no concepts for"):
            load_bank(bank).match([name])


def test_one_citation_a_source() -> None:
    """A paper that several banks cite is cited in the same words."""
    cited: dict[str, set[str]] = {}
    for name in bank_names():
        for key, citation in load_bank(name).sources.items():
            cited.setdefault(key, set()).add(citation)
    assert {key: texts for key, texts in cited.items() if len(texts) > 1} == {}


@pytest.mark.parametrize(("copy", "original"), COPIES.items())
def test_the_same_images_have_the_same_concepts(copy: str, original: str) -> None:
    ours, theirs = load_bank(copy), load_bank(original)
    assert list(ours.classes.values()) == list(theirs.classes.values())
    assert ours.sources == theirs.sources


def test_the_page_lists_no_other_bank() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(rows) == bank_names()


def test_the_released_config_says_the_released_sentences() -> None:
    cfg = get_cfg()
    merge_file(cfg, plugin_path("configs", "trainers", "XCoOpReleased", "pneumonia.yaml"))
    bank = load_bank(cfg.DATASET.CONCEPT_BANK).for_classes(["normal", "pneumonia"])
    said = [text for name in bank.classes for text in clinical_sentences(bank, name, lambda text: True)]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()  # of its CLINICAL_PROMPTS with these class names
    assert digest == "3dd2ad7f7d8c7cce2c8a4350bd6798ae9292262b5b6b406acc9cf4789bcaa9be"
