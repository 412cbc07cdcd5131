"""The probe: what it says of a model that knows all, of one that knows nothing, and of both classes."""

import numpy as np
import torch

from xcoop.backbones.clip_import import import_clip
from xcoop.phantom.captions import said_in
from xcoop.phantom.corpus import UNIFORM, draw_corpus
from xcoop.phantom.probe import TASKS, Reader, as_table, concept_aucs, diagnosis_scores, probe
from xcoop.phantom.terms import terms


class Oracle(Reader):
    """Reads the planted truth: a picture's feature is its profile, a sentence's is the term that stands in it."""

    def __init__(self, kind, corpus):
        self.terms, self.corpus, self.context_length = terms(kind), corpus, 77

    def images(self, images, batch=128):
        truth = torch.from_numpy(self.corpus.truth()).float()
        return truth[[int(image[0, 0, 0]) for image in images]]

    def count_tokens(self, text):
        return 10

    def texts(self, texts):
        said = [said_in(self.corpus.kind, text)[0] for text in texts]
        return torch.tensor([[float(term in terms_said) for term in self.terms] for terms_said in said])


def test_the_probe_gives_one_to_a_model_that_knows_all_and_half_to_one_that_knows_nothing():
    corpus = draw_corpus("derm", 120, "test", 3, 32, (UNIFORM,))
    corpus.images[:, 0, 0, 0] = np.arange(120)
    oracle = Oracle("derm", corpus)
    aucs = concept_aucs(oracle, corpus)
    assert len(aucs) > 12
    assert set(aucs.values()) == {1.0}
    oracle.images = lambda images, batch=128: torch.ones(len(images), len(oracle.terms))
    assert set(concept_aucs(oracle, corpus).values()) == {0.5}


def test_the_diagnosis_scores_count_both_classes_alike():
    corpus = draw_corpus("chest", 60, "test", 4, 64)
    pneumonia = torch.tensor([group != "normal" for group in corpus.groups]).float()

    class Knows(Oracle):
        def images(self, images, batch=128):
            return torch.stack([1 - pneumonia, pneumonia], dim=1)

        def texts(self, texts):
            return torch.tensor([[1.0, 0.0] if "normal" in text else [0.0, 1.0] for text in texts])

    knows = diagnosis_scores(Knows("chest", corpus), corpus, TASKS[1])
    assert set(knows.values()) == {1.0}


def test_the_probe_table_holds_every_number(clip):
    reader = Reader(clip, lambda texts: import_clip().tokenize(list(texts)))
    found = probe(reader, cases=60, seed=0, size=64)
    table = as_table(found)
    assert table.count("\n| ") >= len(found["derm"]) + len(found["chest"]) + 2
    assert "nevus / melanoma" in table
