"""Pretrains the phantom's small CLIP on drawn images and captions that speak of concepts.

OpenAI's architecture, state-dict names and tokenizer, so `clip.model.build_model` takes the result. On a GPU if
there is one; the command's default time limit is for two CPU cores. A killed run goes on from its last checkpoint:
every step draws its random numbers from (seed, step), so nothing but weights and optimiser state need be kept.

CLIP takes the caption of an image as its only match. Short captions of concepts are true of several images of a
batch, and calling those false teaches nonsense; as the concepts are known, all matches are known, and targets are
spread over them (the multi-positive form of UniCL, arXiv:2204.03610).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from xcoop.backbones.phantom import save_state_dict
from xcoop.engine import checkpoint
from xcoop.phantom.corpus import GROUP, TO_LEARN_FROM, Corpus, Sentences, TrainingSet, augment, draw_corpus
from xcoop.phantom.model import VOCAB, PhantomClip, Settings, image_tokens, normalise, optimizers, to_pixels
from xcoop.phantom.probe import concept_aucs
from xcoop.phantom.tables import TABLES

COVERED = 0.05  # of a patch: from here on the concept counts as lying in it; a thin line covers little more
SAVE_SECONDS = 180.0  # between two checkpoints


def matches(said: Tensor, truth: Tensor) -> Tensor:
    """(N, B) bool: sentence i, which states the terms said[i] (N, P), is true of image j with truth[j] (B, P)."""
    wrong = said.float() @ (~truth).float().T  # (N, B) number of false statements
    return wrong == 0


def contrastive_loss(
    cosines: Tensor, scale: Tensor, truth: Tensor, groups: Tensor, said: Sentences
) -> dict[str, Tensor]:
    """The parts of the loss; their sum is what is minimised.

    Args:
        cosines: (N + P, B) of each caption, then each phrase, with each image.
        scale: the temperature's inverse.
        truth: (B, P) bool, which terms are true of each image.
        groups: (B,) the diagnostic group of each image, -1 where there is none.
        said: what the sentences say.

    Returns:
        "captions": caption to image and image to caption, averaged;
        "phrases": phrase to image;
        "values": for each image and concept, its value among the phrases of that concept's values.
    """
    count = len(said.captions)
    logits = scale * cosines
    match = matches(said.captions, truth)
    named = said.groups >= 0
    match &= ~named[:, None] | (said.groups[:, None] == groups[None, :])
    match |= torch.eye(count, len(truth), dtype=torch.bool, device=match.device)
    captions = (_spread(logits[:count], match) + _spread(logits[:count].T, match.T)) / 2
    return {"captions": captions} | phrase_losses(logits[count:], truth, said)


def phrase_losses(logits: Tensor, truth: Tensor, said: Sentences) -> dict[str, Tensor]:
    """The parts "phrases" and "values" of the loss, from scaled similarities (P, B) of phrases with images."""
    losses = []
    for concept in said.rivals[said.rivals >= 0].unique():
        rows = said.rivals == concept
        losses.append(_spread(logits[rows].T, truth[:, rows]))
    return {"phrases": _spread(logits, truth.T), "values": torch.stack(losses).mean()}


def _spread(logits: Tensor, match: Tensor) -> Tensor:
    """Cross-entropy with each row's target spread evenly over its matches (N, M); rows without any do not count."""
    count = match.sum(dim=1)
    rows = -(logits.log_softmax(dim=1) * match).sum(dim=1) / count.clamp(min=1)
    return rows[count > 0].mean()


def place_loss(logits: Tensor, values: Tensor, covered: Tensor) -> Tensor:
    """Cross entropy of one concept's value in each patch; patches with and without the concept count the same.

    Args:
        logits: (B, T, V) of its values in each patch; value 0 is its absence.
        values: (B,) the value in the whole image.
        covered: (B, T) bool, the patches in which it lies.
    """
    targets = torch.where(covered, values[:, None], 0)
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    inside = covered.to(losses.dtype)
    parts = [(losses * share).sum() / share.sum().clamp(min=1) for share in (inside, 1 - inside)]
    return (parts[0] + parts[1]) / 2


def best_patches(texts: Tensor, patches: Tensor, sharpness: float = 10.0) -> Tensor:
    """A smooth maximum over the patches of each image: a phrase must be true somewhere, not everywhere.

        (1/s) log mean_t exp(s cos(text, patch_t))

    Args:
        texts: (Q, D) unit vectors.
        patches: (B, T, D) unit vectors.
        sharpness: s; the larger, the nearer to the maximum.

    Returns:
        (Q, B), in [-1, 1].
    """
    cosines = patches @ texts.T  # (B, T, Q)
    return ((sharpness * cosines).logsumexp(1) - math.log(cosines.shape[1])).T / sharpness


class Pretraining:
    """A run: its model, optimisers, place in the schedule, and checkpoints.

    Args:
        settings: what to compute.
        folder: holds the checkpoint and the drawn images; a run with the same settings goes on from there.
        device: "cuda", "cpu", ...; None: a GPU if there is one.
    """

    def __init__(self, settings: Settings, folder: Path, device: str | None = None) -> None:
        self.settings, self.folder = settings, folder
        self.described = json.dumps(asdict(settings), sort_keys=True)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = PhantomClip(settings).to(self.device)
        self.optimizers = optimizers(self.model, settings.decay)
        self.step, self.seconds = 0, 0.0
        drawn = {kind: self._draw(kind, "pretrain", settings.images, TO_LEARN_FROM) for kind in TABLES}
        self.sets = {kind: TrainingSet(corpus, self.device) for kind, corpus in drawn.items()}
        self.checks = {kind: self._draw(kind, "validate", min(800, settings.images), (GROUP,)) for kind in TABLES}
        some = np.concatenate([corpus.images[:256] for corpus in drawn.values()])
        self.model.whiten(normalise(to_pixels(some, self.device)))
        self._checkpoint = folder / "checkpoint.pt"
        if self._checkpoint.exists():
            self._resume()

    def _draw(self, kind: str, purpose: str, images: int, mix: Sequence[str]) -> Corpus:
        settings = self.settings
        share = settings.derm_share if kind == "derm" else 1 - settings.derm_share
        number, grid = max(1, round(images * share)), settings.size // settings.patch
        return draw_corpus(kind, number, purpose, settings.seed, settings.size, mix, grid, self.folder)

    @property
    def progress(self) -> float:
        """The part of the schedule that is done, in [0, 1]."""
        by_time = self.seconds / (60 * self.settings.minutes) if self.settings.minutes else 0.0
        return min(1.0, max(self.step / self.settings.steps, by_time))

    @property
    def stage(self) -> str:
        """What is learned now: "see" (the image tower, by heads), "speak" (the text tower), or "both"."""
        if self.progress < self.settings.see:
            return "see"
        return "speak" if self.progress < self.settings.see + self.settings.speak else "both"

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the parts of the loss."""
        started = time.monotonic()
        settings = self.settings
        self._set_rates()
        parts = self._losses()
        weights = {
            "captions": 1.0,
            "phrases": settings.phrase_weight,
            "values": settings.value_weight,
            "local": settings.local_weight,
            "heads": settings.head_weight,
            "places": settings.place_weight,
        }
        loss = sum((weights[name] * part for name, part in parts.items()), torch.zeros((), device=self.device))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {self.step}; the last checkpoint is untouched"
            )
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.model.clip.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        self.seconds += time.monotonic() - started
        return {name: float(part.detach()) for name, part in parts.items()} | {"loss": float(loss.detach())}

    def _set_rates(self) -> None:
        """Each tower's learning rate warms up and falls once; the image tower then goes on at a fifth of the text's."""
        settings, see = self.settings, self.settings.see
        warm = min(1.0, (self.step + 1) / settings.warmup)
        seeing = warm * _cosine(self.progress / see) if self.stage == "see" else 0.0
        speaking = _cosine((self.progress - see) / (1 - see)) if self.stage != "see" else 0.0
        for group in [group for optimizer in self.optimizers for group in optimizer.param_groups]:
            share = (seeing or 0.2 * speaking) if group["sees"] else speaking
            group["lr"] = share * (settings.matrix_rate if group["matrices"] else settings.rate)

    def _losses(self) -> dict[str, Tensor]:
        """The parts of this step's loss, of images that are drawn from (seed, step)."""
        settings, stage = self.settings, self.stage
        rng = np.random.default_rng(np.random.SeedSequence([int.from_bytes(b"steps", "big"), settings.seed, self.step]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        # The dermoscopic steps are spread evenly.
        share = settings.derm_share
        kind = "derm" if math.floor((self.step + 1) * share) > math.floor(self.step * share) else "chest"
        training = self.sets[kind]
        chosen, said, captions, phrases = training.batch(settings.batch, settings.captions, rng)
        pixels = to_pixels(training.corpus.images[chosen], self.device)
        places = torch.from_numpy(training.corpus.places[chosen]).to(self.device) / 255
        pixels, places = augment(kind, pixels, places, generator)
        with torch.set_grad_enabled(stage != "speak"):
            tokens = image_tokens(self.model.clip.visual, normalise(pixels))

        parts: dict[str, Tensor] = {}
        if stage != "see":  # images against captions and phrases; once both towers learn, patches against phrases, too
            truth, groups = training.truth[chosen], training.groups[chosen]
            images, patches = normalize(tokens[:, 0], dim=-1), normalize(tokens[:, 1:], dim=-1)
            # Phrases are short: encoded apart from the captions, they are not padded to the longest of these.
            spoken, stated = self.model.encode_texts(captions), self.model.encode_texts(phrases)
            scale = self.model.clip.logit_scale.exp()
            parts |= contrastive_loss(torch.cat([spoken, stated]) @ images.T, scale, truth, groups, said)
            if stage == "both":
                local = phrase_losses(scale * best_patches(stated, patches), truth, said)
                parts["local"] = settings.phrase_weight * local["phrases"] + settings.value_weight * local["values"]
        if stage != "speak":  # the concepts' values, in the whole image and in its patches
            values, covered = training.values[chosen], places.flatten(2) > COVERED
            counts = [len(own) for own in TABLES[kind].values.values()]
            whole, in_patches = (part.split(counts, dim=-1) for part in self.model.name_values(kind, tokens))
            heads = [cross_entropy(part, values[:, i]) for i, part in enumerate(whole)]
            local_heads = [place_loss(part, values[:, i], covered[:, i]) for i, part in enumerate(in_patches)]
            parts |= {"heads": torch.stack(heads).mean(), "places": torch.stack(local_heads).mean()}
        return parts

    def check(self) -> dict[str, float]:
        """Concept AUCs on images that are not trained on: "derm/streaks=irregular" -> AUC."""
        backbone = self.model.backbone()
        found = {kind: concept_aucs(backbone, corpus) for kind, corpus in self.checks.items()}
        return {f"{kind}/{name}": auc for kind, aucs in found.items() for name, auc in aucs.items()}

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        content = {
            "settings": self.described,
            "step": self.step,
            "seconds": self.seconds,
            "student": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        checkpoint.write(content, self._checkpoint)

    def _resume(self) -> None:
        content = checkpoint.read(self._checkpoint)
        if content["settings"] != self.described:
            raise ValueError(
                f"{self._checkpoint} was made with {content['settings']}; move it away, or use these settings"
            )
        self.model.load_state_dict(content["student"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds = content["step"], content["seconds"]
        _say(f"going on from step {self.step} of {self._checkpoint}")


def _cosine(progress: float) -> float:
    """Half a cosine, from one to a fiftieth."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def pretrain(
    out: str | os.PathLike[str],
    settings: Settings,
    work: str | os.PathLike[str] | None = None,
    check_every: int = 200,
    device: str | None = None,
) -> dict[str, float]:
    """Draws the images, trains, says how far it is, and writes the weights.

    Args:
        out: the safetensors file to write.
        settings: see `Settings`.
        work: folder of checkpoint and images; None: `<out>.work`. It may be deleted afterwards.
        check_every: steps between two looks at the concept AUCs, the last of which are returned.
        device: see `Pretraining`.
    """
    folder = Path(work) if work else Path(f"{out}.work")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    run = Pretraining(settings, folder, device)
    size = sum(parameter.numel() for parameter in run.model.parameters())
    _say(f"images ready after {time.monotonic() - started:.0f} s; {size} parameters on {run.device}")
    saved = time.monotonic()
    with tqdm(total=settings.steps, initial=run.step, desc="pretraining", disable=None) as bar:
        while run.progress < 1:
            parts = run.train_step()
            bar.update()
            bar.set_postfix(loss=f"{parts['loss']:.3f}")
            if run.step % 50 == 0:
                _say(f"step {run.step} " + " ".join(f"{k} {v:.3f}" for k, v in parts.items()) + f" {run.seconds:.0f} s")
            if run.step % check_every == 0 and run.progress < 1:
                _check(run)
            if time.monotonic() - saved > SAVE_SECONDS:
                run.save()
                saved = time.monotonic()
    run.save()
    aucs = _check(run)
    metadata = {
        "seed": str(settings.seed),
        "vocab": str(VOCAB),
        "steps": str(run.step),
        "settings": run.described,
        "seconds": f"{run.seconds:.0f}",
    }
    save_state_dict(run.model.export(), out, metadata)
    return aucs


def _check(run: Pretraining) -> dict[str, float]:
    aucs = run.check()
    lowest = ", ".join(f"{name} {aucs[name]:.3f}" for name in sorted(aucs, key=aucs.__getitem__)[:5])
    mean = sum(aucs.values()) / max(1, len(aucs))
    _say(f"step {run.step} mean concept AUC {mean:.3f}; lowest: {lowest or 'no concept could be checked'}")
    return aucs


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stdout)  # above the bar
    sys.stdout.flush()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop phantom pretrain`."""
    default = Settings()
    parser.add_argument("--out", required=True, help="the safetensors file to write")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps, help="optimiser steps (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=default.minutes, help="end by then; 0: never (default %(default)g)"
    )
    parser.add_argument("--images", type=int, default=default.images, help="images to draw (default %(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="images a step (default %(default)s)")
    parser.add_argument("--work", default=None, help="folder of checkpoint and images (default: OUT.work)")
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--check-every", type=int, default=200, help="steps between checks (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Carries out `xcoop phantom pretrain`; returns the exit code."""
    settings = Settings(args.seed, args.steps, args.minutes, args.images, batch=args.batch)
    aucs = pretrain(args.out, settings, args.work, args.check_every, device=args.device)
    _say(f"wrote {args.out}")
    for name, auc in sorted(aucs.items()):
        _say(f"{auc:.3f} {name}")
    return 0
