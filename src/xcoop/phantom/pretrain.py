"""Pretrains the phantom's small CLIP on drawn pictures and captions that speak of concepts.

OpenAI's architecture, state-dict names and tokenizer, so `clip.model.build_model` takes the result. On a GPU if
there is one; the command's default time limit is for two CPU cores. A killed run goes on from its last checkpoint:
every step draws its random numbers from (seed, step), so nothing but weights and optimiser state need be kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from xcoop.engine import safeload
from xcoop.phantom.augment import augment
from xcoop.phantom.captions import DIAGNOSES, make_caption, phrase
from xcoop.phantom.corpus import GROUP, TO_LEARN_FROM, Corpus, draw_corpus, value_counts, value_numbers
from xcoop.phantom.muon import Muon
from xcoop.phantom.objective import Sentences, best_patches, contrastive_loss, phrase_losses, place_loss
from xcoop.phantom.probe import concept_aucs
from xcoop.phantom.student import VOCAB, Settings, Student
from xcoop.phantom.terms import KINDS, concepts, terms
from xcoop.phantom.towers import image_tokens, normalise
from xcoop.phantom.weights import save_state_dict

log = logging.getLogger(__name__)

COVERED = 0.05  # of a patch: from here on the concept counts as lying in it; a thin line covers little more


class Pupil:
    """What a step needs of one kind of picture, ready as tensors."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.terms = terms(corpus.kind)
        self.number = {term: i for i, term in enumerate(self.terms)}
        self.truth = torch.from_numpy(corpus.truth())  # (N, P)
        self.values = torch.from_numpy(value_numbers(corpus.kind, corpus.profiles))  # (N, concepts)
        names = list(DIAGNOSES[corpus.kind])
        self.groups = torch.tensor([names.index(group) if group else -1 for group in corpus.groups])  # (N,)
        order = {name: i for i, name in enumerate(concepts(corpus.kind))}
        single = [len(term.values) == 1 and term.concept in order for term in self.terms]
        self.rivals = torch.tensor([order[t.concept] if s else -1 for t, s in zip(self.terms, single, strict=True)])

    def batch(
        self, size: int, captioned: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, Sentences, list[str], list[str]]:
        """Numbers of pictures (B,), what is said of them, the captions of the first N of them, and Q phrases."""
        corpus = self.corpus
        chosen = rng.choice(len(corpus), size=min(size, len(corpus)), replace=False)
        first = chosen[:captioned]
        captions = [make_caption(corpus.kind, corpus.profiles[i], rng, corpus.groups[i]) for i in first]
        said = torch.zeros(len(captions), len(self.terms), dtype=torch.bool)
        for row, caption in enumerate(captions):
            said[row, [self.number[term] for term in caption.said]] = True
        named = torch.tensor([caption.diagnosis is not None for caption in captions])
        groups = torch.where(named, self.groups[first], -1)
        sentences = Sentences(said, groups, torch.arange(len(self.terms)), self.rivals)
        return chosen, sentences, [caption.text for caption in captions], [phrase(term, rng) for term in self.terms]


class Pretraining:
    """A run: its model, optimiser, place in the schedule, and checkpoints.

    Args:
        settings: what to compute.
        folder: holds the checkpoint and the drawn pictures; a run with the same settings goes on from there.
        device: "cuda", "cpu", ...; None: a GPU if there is one.
    """

    def __init__(self, settings: Settings, folder: Path, device: str | None = None) -> None:
        self.settings, self.folder = settings, folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.student = Student(settings).to(self.device)
        self.optimizers = _optimizers(self.student, settings.decay)
        self.step, self.seconds = 0, 0.0
        self.pupils = {kind: Pupil(self._draw(kind, "pretrain", settings.images, TO_LEARN_FROM)) for kind in KINDS}
        self.checks = {kind: self._draw(kind, "validate", min(800, settings.images), (GROUP,)) for kind in KINDS}
        some = [pupil.corpus.images[:256] for pupil in self.pupils.values()]
        self.student.whiten(normalise(torch.from_numpy(np.concatenate(some)).permute(0, 3, 1, 2) / 255).to(self.device))
        self._resume()

    @property
    def progress(self) -> float:
        """The part of the schedule that is done, in [0, 1]."""
        by_time = self.seconds / (60 * self.settings.minutes) if self.settings.minutes else 0.0
        return min(1.0, max(self.step / self.settings.steps, by_time))

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the parts of the loss."""
        started = time.monotonic()
        self._set_rates()
        parts = self._losses()
        weights = {"captions": 1.0, "phrases": self.settings.phrase_weight, "values": self.settings.value_weight}
        weights |= {"local": self.settings.local_weight, "heads": self.settings.head_weight}
        weights |= {"places": self.settings.place_weight}
        loss = sum((weights[name] * part for name, part in parts.items()), torch.zeros((), device=self.device))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {self.step}; the last checkpoint is untouched"
            )
        self.student.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.student.clip.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        self.seconds += time.monotonic() - started
        return {name: float(part.detach()) for name, part in parts.items()} | {"loss": float(loss.detach())}

    def check(self) -> dict[str, float]:
        """Concept AUCs on pictures that are not trained on: "derm/streaks=irregular" -> AUC."""
        reader = self.student.reader()
        return {
            f"{kind}/{name}": auc
            for kind, corpus in self.checks.items()
            for name, auc in concept_aucs(reader, corpus).items()
        }

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        content = {
            "settings": json.dumps(asdict(self.settings), sort_keys=True),
            "step": self.step,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        safeload.write(content, self._checkpoint)

    def _losses(self) -> dict[str, Tensor]:
        settings = self.settings
        rng = np.random.default_rng(np.random.SeedSequence([int.from_bytes(b"steps", "big"), settings.seed, self.step]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        kind = "derm" if _is_derm(self.step, settings.derm_share) else "chest"
        pupil = self.pupils[kind]
        chosen, said, captions, phrases = pupil.batch(settings.batch, settings.captions, rng)
        pixels = torch.from_numpy(pupil.corpus.images[chosen]).to(self.device).permute(0, 3, 1, 2) / 255
        places = torch.from_numpy(pupil.corpus.places[chosen]).to(self.device) / 255
        pixels, places = augment(kind, pixels, places, generator)
        pixels = normalise(pixels)
        with torch.set_grad_enabled(self.stage != "speak"):
            tokens = image_tokens(self.student.clip.visual, pixels)
        if self.stage == "see":
            return self._heads(kind, tokens, pupil.values[chosen], places)
        parts = self._contrasts(tokens, pupil, chosen, said, captions, phrases)
        return parts if self.stage == "speak" else parts | self._heads(kind, tokens, pupil.values[chosen], places)

    def _heads(self, kind: str, tokens: Tensor, values: Tensor, places: Tensor) -> dict[str, Tensor]:
        """The cross entropies of the concepts' values, in the whole picture and in its patches, averaged."""
        whole, patches = self.student.name_values(kind, tokens)
        counts, values, covered = value_counts(kind), values.to(tokens.device), places.flatten(2) > COVERED
        heads = [cross_entropy(part, values[:, i]) for i, part in enumerate(whole.split(counts, dim=1))]
        local = [place_loss(part, values[:, i], covered[:, i]) for i, part in enumerate(patches.split(counts, dim=2))]
        return {"heads": torch.stack(heads).mean(), "places": torch.stack(local).mean()}

    def _contrasts(
        self, tokens: Tensor, pupil: Pupil, chosen: np.ndarray, said: Sentences, captions: list[str], phrases: list[str]
    ) -> dict[str, Tensor]:
        """Pictures against captions and phrases; once both towers learn, patches against phrases, too."""
        settings = self.settings
        images, patches = normalize(tokens[:, 0], dim=-1), normalize(tokens[:, 1:], dim=-1)
        # Phrases are short: encoded apart from the captions, they are not padded to the longest of these.
        spoken, stated = (
            self.student.encode_texts(self.student.tokenize(t).to(self.device)) for t in (captions, phrases)
        )
        said = Sentences(*(part.to(self.device) for part in (said.captions, said.groups, said.phrases, said.rivals)))
        truth, groups = pupil.truth[chosen].to(self.device), pupil.groups[chosen].to(self.device)
        scale = self.student.clip.logit_scale.exp()
        parts = contrastive_loss(torch.cat([spoken, stated]) @ images.T, scale, truth, groups, said)
        if self.stage == "both":
            local = phrase_losses(scale * best_patches(stated, patches), truth, said)
            parts["local"] = settings.phrase_weight * local["phrases"] + settings.value_weight * local["values"]
        return parts

    @property
    def stage(self) -> str:
        """What is learned now: "see" (the image tower, by heads), "speak" (the text tower), or "both"."""
        if self.progress < self.settings.see:
            return "see"
        return "speak" if self.progress < self.settings.see + self.settings.speak else "both"

    def _set_rates(self) -> None:
        """Each tower's learning rate warms up and falls once; the image tower then goes on at a fifth of the text's."""
        settings, see = self.settings, self.settings.see
        warm = min(1.0, (self.step + 1) / settings.warmup)
        seeing = warm * _cosine(self.progress / see) if self.stage == "see" else 0.0
        speaking = _cosine((self.progress - see) / (1 - see)) if self.stage != "see" else 0.0
        for group in [group for optimizer in self.optimizers for group in optimizer.param_groups]:
            share = (seeing or 0.2 * speaking) if group["sees"] else speaking
            group["lr"] = share * (settings.matrix_rate if group["matrices"] else settings.rate)

    def _draw(self, kind: str, purpose: str, images: int, mix: Sequence[str]) -> Corpus:
        settings = self.settings
        share = settings.derm_share if kind == "derm" else 1 - settings.derm_share
        number, grid = max(1, round(images * share)), settings.size // settings.patch
        return draw_corpus(kind, number, purpose, settings.seed, settings.size, mix, grid, self.folder)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        content = safeload.read(self._checkpoint)
        if content["settings"] != json.dumps(asdict(self.settings), sort_keys=True):
            raise ValueError(
                f"{self._checkpoint} was made with {content['settings']}; move it away, or use these settings"
            )
        self.student.load_state_dict(content["student"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds = content["step"], content["seconds"]
        log.info("going on from step %d of %s", self.step, self._checkpoint)


def pretrain(
    out: str | os.PathLike[str],
    settings: Settings,
    work: str | os.PathLike[str] | None = None,
    check_every: int = 200,
    save_seconds: float = 180.0,
    device: str | None = None,
    say: Callable[[str], None] = log.info,
) -> dict[str, float]:
    """Draws the pictures, trains, and writes the weights.

    Args:
        out: the safetensors file to write.
        settings: see `Settings`.
        work: folder of checkpoint and pictures; None: `<out>.work`. It may be deleted afterwards.
        check_every: steps between two looks at the concept AUCs.
        save_seconds: between two checkpoints.
        device: see `Pretraining`.
        say: takes the plain lines of progress.

    Returns:
        The last concept AUCs.
    """
    folder = Path(work) if work else Path(f"{out}.work")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    run = Pretraining(settings, folder, device)
    say(f"pictures ready after {time.monotonic() - started:.0f} s; {_size(run.student)} parameters on {run.device}")
    saved, aucs = time.monotonic(), {}
    with tqdm(total=settings.steps, initial=run.step, desc="pretraining", disable=None) as bar:
        while run.progress < 1:
            parts = run.train_step()
            bar.update()
            bar.set_postfix(loss=f"{parts['loss']:.3f}")
            if run.step % 50 == 0:
                say(f"step {run.step} " + " ".join(f"{k} {v:.3f}" for k, v in parts.items()) + f" {run.seconds:.0f} s")
            if run.step % check_every == 0 or run.progress >= 1:
                aucs = run.check()
                say(f"step {run.step} {_summary(aucs)}")
            if time.monotonic() - saved > save_seconds:
                run.save()
                saved = time.monotonic()
    run.save()
    aucs = aucs or run.check()
    _write(run, Path(out), aucs)
    return aucs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop phantom pretrain`."""
    default = Settings()
    parser.add_argument("--out", required=True, help="the safetensors file to write")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps, help="optimiser steps (default %(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=default.minutes,
        help="end by then; 0: never (default %(default)g)",
    )
    parser.add_argument("--images", type=int, default=default.images, help="pictures to draw (default %(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="pictures a step (default %(default)s)")
    parser.add_argument("--work", default=None, help="folder of checkpoint and pictures (default: OUT.work)")
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--check-every", type=int, default=200, help="steps between checks (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Carries out `xcoop phantom pretrain`; returns the exit code."""
    settings = Settings(args.seed, args.steps, args.minutes, args.images, batch=args.batch)

    def say(line: str) -> None:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    aucs = pretrain(args.out, settings, args.work, args.check_every, device=args.device, say=say)
    say(f"wrote {args.out}")
    for name, auc in sorted(aucs.items()):
        say(f"{auc:.3f} {name}")
    return 0


def _optimizers(student: nn.Module, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the towers' blocks, AdamW for the rest.

    The towers are kept apart, as their rates differ. Matrices decay; norms, biases, embeddings and the temperature
    do not.
    """
    still = ("rows", "positional_embedding", "class_embedding", "logit_scale")
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        matrix = parameter.ndim >= 2 and not name.endswith(still)
        sees = name.startswith(("clip.visual.", "heads.", "place_biases."))
        groups.setdefault((".resblocks." in name and matrix, matrix, sees), []).append(parameter)
    sorts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for (in_block, matrix, sees), params in groups.items():
        own = {"weight_decay": decay if matrix else 0.0, "sees": sees, "matrices": in_block}
        sorts[in_block].append({"params": params} | own)
    return [Muon(sorts[True]), torch.optim.AdamW(sorts[False], betas=(0.9, 0.98))]


def _cosine(progress: float) -> float:
    """Half a cosine, from one to a fiftieth."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def _is_derm(step: int, share: float) -> bool:
    """Spreads the dermoscopic steps evenly."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _summary(aucs: dict[str, float]) -> str:
    if not aucs:
        return "no concept could be checked"
    worst = sorted(aucs, key=lambda name: aucs[name])[:5]
    listed = ", ".join(f"{name} {aucs[name]:.3f}" for name in worst)
    return f"mean concept AUC {sum(aucs.values()) / len(aucs):.3f}; lowest: {listed}"


def _write(run: Pretraining, out: Path, aucs: dict[str, float]) -> None:
    described = json.dumps(asdict(run.settings), sort_keys=True)
    metadata = {
        "seed": str(run.settings.seed),
        "vocab": str(VOCAB),
        "steps": str(run.step),
        "settings": described,
        "settings_sha256": hashlib.sha256(described.encode()).hexdigest(),
        "mean_concept_auc": f"{sum(aucs.values()) / max(1, len(aucs)):.4f}",
        "seconds": f"{run.seconds:.0f}",
    }
    save_state_dict(run.student.export(), out, metadata)
