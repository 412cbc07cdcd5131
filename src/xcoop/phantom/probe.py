"""What a small CLIP knows of the phantom's concepts without any training: zero-shot AUC and accuracy on fresh cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize

from xcoop.backbones.clip_import import import_clip
from xcoop.concepts.bank import load_bank
from xcoop.concepts.features import clinical_features
from xcoop.files import atomic_write_text
from xcoop.phantom.captions import DIAGNOSIS_RATE
from xcoop.phantom.card import make_card
from xcoop.phantom.corpus import GROUP, UNIFORM, Corpus, concept_values, draw_corpus
from xcoop.phantom.terms import value_terms
from xcoop.phantom.towers import image_features, normalise, text_features
from xcoop.phantom.weights import load_state_dict, pretrained_path, read_metadata

# One sentence for each concept value; it names the value and nothing else.
SENTENCES = {"derm": "a dermoscopic photo of a skin lesion, with {}.", "chest": "a chest x-ray of a patient, with {}."}
BARE = "a photo of a {}."
_FEWEST = 10  # positives, and negatives, without which an AUC says nothing


@dataclass(frozen=True)
class Task:
    """A zero-shot diagnosis.

    Attributes:
        kind: "derm" or "chest".
        bank: the concept bank that holds the clinical sentences of the classes.
        groups: of each class, the groups of the phantom that belong to it; the second class counts as positive.
    """

    kind: str
    bank: str
    groups: Mapping[str, tuple[str, ...]]


TASKS = (
    Task("derm", "phantom", {"nevus": ("NEV",), "melanoma": ("MEL",)}),
    Task("chest", "pneumonia", {"normal": ("normal",), "pneumonia": ("bacterial", "viral")}),
)


class Reader:
    """Features of pictures and sentences under one CLIP.

    Attributes:
        context_length: tokens that a sentence may have.

    Args:
        clip: `clip.model.CLIP`, on the device to compute on.
        tokenize: texts -> (N, 77) token numbers.
        embed: (N, L) token numbers -> (N, L, W); None: the model's own embedding.
    """

    def __init__(
        self,
        clip: Any,
        tokenize: Callable[[Sequence[str]], Tensor],
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.clip = clip
        self.tokenize = tokenize
        self.embed: Callable[[Tensor], Tensor] = embed or clip.token_embedding
        self.context_length = int(clip.positional_embedding.shape[0])

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, start and end included; one more than the context holds if it is too long."""
        try:
            return int(self.tokenize([text]).argmax()) + 1
        except RuntimeError:
            return self.context_length + 1

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See `texts`; under the name that the concept banks use."""
        return self.texts(texts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit features of sentences."""
        device = self.clip.positional_embedding.device
        tokens = self.tokenize(texts).to(device)
        end = tokens.argmax(dim=1)
        tokens = tokens[:, : int(end.max()) + 1]
        return normalize(text_features(self.clip, self.embed(tokens), end), dim=-1)

    @torch.no_grad()
    def images(self, images: np.ndarray, batch: int = 128) -> Tensor:
        """(N, D) unit features of pictures (N, S, S, 3) uint8."""
        device = self.clip.positional_embedding.device
        parts = []
        for start in range(0, len(images), batch):
            pixels = torch.from_numpy(images[start : start + batch]).to(device).permute(0, 3, 1, 2) / 255
            parts.append(normalize(image_features(self.clip.visual, normalise(pixels)), dim=-1))
        return torch.cat(parts)


def concept_aucs(reader: Reader, corpus: Corpus) -> dict[str, float]:
    """AUC of each concept value against the rest, by the cosine of the picture with one sentence that names the value.

    Nothing is contrasted: neither with the sentence of its absence nor with those of the other values.

    Returns:
        "concept=value" -> AUC; values with too few cases on either side are left out.
    """
    values = concept_values(corpus.kind, corpus.profiles)
    asked = {key: term for key, term in value_terms(corpus.kind).items() if key in values}
    asked = {key: term for key, term in asked.items() if _FEWEST <= values[key].sum() <= len(corpus) - _FEWEST}
    if not asked:
        return {}
    sentences = [SENTENCES[corpus.kind].format(term.wordings[0]) for term in asked.values()]
    cosines = (reader.images(corpus.images) @ reader.texts(sentences).T).cpu().numpy()  # (N, values)
    return {
        f"{concept}={value}": float(roc_auc_score(values[concept, value], cosines[:, i]))
        for i, (concept, value) in enumerate(asked)
    }


def diagnosis_scores(reader: Reader, corpus: Corpus, task: Task) -> dict[str, float]:
    """Zero-shot accuracy and AUC of a task with bare class names and with clinical sentences.

    Classes count the same, however many cases each has: the accuracy is the balanced one.

    Returns:
        "names_accuracy", "names_auc", "sentences_accuracy", "sentences_auc", as fractions.
    """
    first, second = task.groups.values()
    chosen = np.array([group in (*first, *second) for group in corpus.groups])
    positive = np.array([group in second for group in corpus.groups])[chosen]
    images = reader.images(corpus.images[chosen])
    names = list(task.groups)
    sides = {
        "names": reader.texts([BARE.format(name) for name in names]),
        "sentences": clinical_features(reader, load_bank(task.bank).for_classes(names)),
    }
    scores = {}
    for way, texts in sides.items():
        cosines = (images @ texts.T).cpu().numpy()  # (N, 2)
        margin = cosines[:, 1] - cosines[:, 0]
        right = (margin > 0) == positive
        scores[f"{way}_accuracy"] = float((right[positive].mean() + right[~positive].mean()) / 2)
        scores[f"{way}_auc"] = float(roc_auc_score(positive, margin))
    return scores


def probe(reader: Reader, cases: int, seed: int, size: int = 64) -> dict[str, dict[str, float]]:
    """Draws fresh cases and puts all questions to a CLIP.

    Args:
        reader: the CLIP.
        cases: of each kind; as many with uniformly drawn concepts as from the tables of the diagnostic groups.
        seed: of the cases; they share no random stream with those of a pretraining, whatever its seed.
        size: pixels a side, the model's input.

    Returns:
        "<kind>" -> AUC of each concept value on the uniform cases; "<kind> by group" -> the same on the others;
        "<kind> diagnosis" -> see `diagnosis_scores`.
    """
    found: dict[str, dict[str, float]] = {}
    for task in TASKS:
        kind = task.kind
        uniform = draw_corpus(kind, cases, "probe", seed, size, (UNIFORM,))
        grouped = draw_corpus(kind, cases, "probe", seed, size, (GROUP,))
        found[kind] = concept_aucs(reader, uniform)
        found[f"{kind} by group"] = concept_aucs(reader, grouped)
        found[f"{kind} diagnosis"] = diagnosis_scores(reader, grouped, task)
    return found


def as_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The answers of `probe` as Markdown."""
    lines = ["| concept value | AUC, concepts uniform | AUC, concepts by group |", "|---|---|---|"]
    for task in TASKS:
        by_group = found[f"{task.kind} by group"]
        for name, auc in found[task.kind].items():
            other = f"{by_group[name]:.3f}" if name in by_group else "too few"
            lines.append(f"| {task.kind}: {name} | {auc:.3f} | {other} |")
    for column, suffix in (("uniform", ""), ("by group", " by group")):
        aucs = [auc for task in TASKS for auc in found[f"{task.kind}{suffix}"].values()]
        lines.append(f"\nConcepts {column}: mean AUC {np.mean(aucs):.3f}, lowest {min(aucs):.3f}.")
    lines += [
        "",
        "| zero-shot | accuracy, names | AUC, names | accuracy, sentences | AUC, sentences |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        row = " | ".join(f"{value:.3f}" for value in found[f"{task.kind} diagnosis"].values())
        lines.append(f"| {' / '.join(task.groups)} | {row} |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop phantom probe`."""
    parser.add_argument("--weights", default=None, help="a safetensors file (default: the weights of the package)")
    parser.add_argument("--cases", type=int, default=1000, help="fresh cases of each kind, twice (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the cases (default %(default)s)")
    parser.add_argument("--card", default=None, help="also write the card of these weights to this file")
    parser.add_argument("--machine", default="two CPU cores", help="for the card: where they were trained")


def run(args: argparse.Namespace) -> int:
    """Carries out `xcoop phantom probe`; returns the exit code."""
    path = args.weights or pretrained_path()
    clip = import_clip()
    model = clip.model.build_model(load_state_dict(path)).float().eval()
    reader = Reader(model, lambda texts: clip.tokenize(list(texts)))
    found = probe(reader, args.cases, args.seed, model.visual.input_resolution)
    table = as_table(found)
    sys.stdout.write(f"{path}, {args.cases} cases a row, seed {args.seed}\n\n{table}\n")
    if args.card:
        atomic_write_text(args.card, _card(read_metadata(path), table, args))
    return 0


def _card(metadata: Mapping[str, str], table: str, args: argparse.Namespace) -> str:
    sentences = {f"{kind}_sentence": sentence.format("[value]") for kind, sentence in SENTENCES.items()}
    texts = {"machine": args.machine, "bare": BARE.format("[class]"), **sentences}
    return make_card(
        metadata, table, texts, {"cases": args.cases, "probe_seed": args.seed, "diagnosis": DIAGNOSIS_RATE}
    )
