"""What a small CLIP knows of the phantom's concepts without any training: zero-shot AUC and accuracy on fresh cases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize

from xcoop.backbones.base import Backbone
from xcoop.backbones.clip_model import build_clip
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.phantom import load_state_dict, pretrained_path, read_metadata
from xcoop.concepts.bank import load_bank
from xcoop.concepts.sentences import clinical_features
from xcoop.phantom.corpus import GROUP, UNIFORM, Corpus, draw_corpus
from xcoop.phantom.model import normalise, to_pixels
from xcoop.phantom.tables import DIAGNOSIS_RATE, value_terms
from xcoop.utils.files import atomic_write_text

# One sentence for each concept value; it names the value and nothing else.
SENTENCES = {"derm": "a dermoscopic photo of a skin lesion, with {}.", "chest": "a chest x-ray of a patient, with {}."}
BARE = "a photo of a {}."
_FEWEST = 10  # positives, and negatives, without which an AUC says nothing


class Task(NamedTuple):
    """A zero-shot diagnosis."""

    kind: str  # "derm" or "chest"
    bank: str  # the concept bank that holds the clinical sentences of the classes
    groups: Mapping[str, tuple[str, ...]]  # of each class; the second class is the positive one


TASKS = (
    Task("derm", "phantom", {"nevus": ("NEV",), "melanoma": ("MEL",)}),
    Task("chest", "pneumonia", {"normal": ("normal",), "pneumonia": ("bacterial", "viral")}),
)


@torch.no_grad()
def encode_images(backbone: Backbone, images: np.ndarray) -> Tensor:
    """(N, D) unit features of images (N, S, S, 3) uint8."""
    device = backbone.logit_scale.device
    parts = np.array_split(images, range(128, len(images), 128))
    features = [backbone.encode_image(normalise(to_pixels(part, device))).pooled for part in parts]
    return normalize(torch.cat(features), dim=-1)


@torch.no_grad()
def encode_sentences(backbone: Backbone, sentences: Sequence[str]) -> Tensor:
    """(N, D) unit features of sentences."""
    return normalize(backbone.encode_text(sentences), dim=-1)


def concept_aucs(backbone: Backbone, corpus: Corpus) -> dict[str, float]:
    """AUC of each concept value against the rest, by the cosine of the image with one sentence that names the value.

    Nothing is contrasted: neither with the sentence of its absence nor with those of the other values.

    Returns:
        "concept=value" -> AUC; values with too few cases on either side are left out.
    """
    truths, sentences = {}, []
    for (concept, value), term in value_terms(corpus.kind).items():
        true = np.array([profile[concept] == value for profile in corpus.profiles])
        if _FEWEST <= true.sum() <= len(corpus) - _FEWEST:
            truths[f"{concept}={value}"] = true
            sentences.append(SENTENCES[corpus.kind].format(term.wordings[0]))
    if not truths:
        return {}
    cosines = encode_images(backbone, corpus.images) @ encode_sentences(backbone, sentences).T  # (N, values)
    columns = zip(truths.items(), cosines.T.cpu().numpy(), strict=True)
    return {name: float(roc_auc_score(true, column)) for (name, true), column in columns}


def diagnosis_scores(backbone: Backbone, corpus: Corpus, task: Task) -> dict[str, float]:
    """Zero-shot accuracy and AUC of a task with bare class names and with clinical sentences.

    Classes count the same, however many cases each has: the accuracy is the balanced one.

    Returns:
        "names_accuracy", "names_auc", "sentences_accuracy", "sentences_auc", as fractions.
    """
    first, second = task.groups.values()
    chosen = np.array([group in (*first, *second) for group in corpus.groups])
    positive = np.array([group in second for group in corpus.groups])[chosen]
    images = encode_images(backbone, corpus.images[chosen])
    names = list(task.groups)
    sides = {
        "names": encode_sentences(backbone, [BARE.format(name) for name in names]),
        "sentences": clinical_features(backbone, load_bank(task.bank).for_classes(names)),
    }
    scores = {}
    for way, texts in sides.items():
        cosines = (images @ texts.T).cpu().numpy()  # (N, 2)
        margin = cosines[:, 1] - cosines[:, 0]
        scores[f"{way}_accuracy"] = float(balanced_accuracy_score(positive, margin > 0))
        scores[f"{way}_auc"] = float(roc_auc_score(positive, margin))
    return scores


def probe(backbone: Backbone, cases: int, seed: int, size: int = 64) -> dict[str, dict[str, float]]:
    """Draws fresh cases and puts all questions to a CLIP.

    Args:
        backbone: the CLIP.
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
        found[kind] = concept_aucs(backbone, uniform)
        found[f"{kind} by group"] = concept_aucs(backbone, grouped)
        found[f"{kind} diagnosis"] = diagnosis_scores(backbone, grouped, task)
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
    backbone = ClipBackbone("phantom", build_clip(load_state_dict(path), str(path)))
    found = probe(backbone, args.cases, args.seed, backbone.input_size)
    table = as_table(found)
    sys.stdout.write(f"{path}, {args.cases} cases a row, seed {args.seed}\n\n{table}\n")
    if args.card:
        metadata = read_metadata(path)
        settings = json.loads(metadata["settings"])
        values = settings | {
            "settings": metadata["settings"],
            "planned": settings["steps"],
            "steps": int(metadata["steps"]),
            "minutes": float(metadata["seconds"]) / 60,
            "limit": f" --minutes {settings['minutes']:g}" if settings["minutes"] else "",
            "machine": args.machine,
            "table": table,
            "cases": args.cases,
            "probe_seed": args.seed,
            "diagnosis": DIAGNOSIS_RATE,
            "bare": BARE.format("[class]"),
            **{f"{kind}_sentence": sentence.format("[value]") for kind, sentence in SENTENCES.items()},
        }
        atomic_write_text(args.card, Path(__file__).with_name("weights_card.md").read_text().format(**values))
    return 0
