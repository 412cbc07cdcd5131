"""Images to pretrain on and to probe with: drawn once, put into batches with what is said of them, and augmented."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xcoop.phantom.chest import draw_chest
from xcoop.phantom.dermoscopy import draw_dermoscopy
from xcoop.phantom.drawing import Drawing, draw_cases
from xcoop.phantom.tables import ABSENT, TABLES, make_caption, phrase, terms
from xcoop.utils.files import atomic_path

# Share of each diagnostic group among the images that have one.
_GROUP_SHARES: dict[str, dict[str, float]] = {
    "derm": {"NEV": 0.35, "MEL": 0.30, "BCC": 0.12, "SK": 0.12, "MISC": 0.11},
    "chest": {"normal": 0.4, "bacterial": 0.35, "viral": 0.25},
}

_DRAW: dict[str, Callable[[Mapping[str, str], np.random.Generator, int], Drawing]] = {
    "derm": draw_dermoscopy,
    "chest": draw_chest,
}

# Whose concepts a case has: those of a "group", from its table; or, to learn from, with every value equally often
# ("uniform", which crowds the images) or at most as many as real lesions and chests show ("sparse").
GROUP, UNIFORM, SPARSE = "group", "uniform", "sparse"
TO_LEARN_FROM = (SPARSE, GROUP, SPARSE, UNIFORM, SPARSE)
_SPARSE = 0.4  # the share of a sparse case's concepts that are present

# Images are drawn larger and then reduced, as real ones are; without it fine lines would be sharper than in use.
_LARGER = 1.5


@dataclass(frozen=True)
class Case:
    """What is to be drawn, and all that decides how it looks."""

    kind: str  # "derm" or "chest"
    purpose: str  # "pretrain", "validate", "probe", ...: no two purposes ever share a random stream
    seed: int  # of the whole set
    index: int  # of the case in the set
    size: int  # pixels a side of the reduced image
    concepts: str = GROUP  # or UNIFORM, or SPARSE
    grid: int = 8  # cells a side in which the places of the concepts are kept

    def rng(self) -> np.random.Generator:
        """The case's own stream. The purpose's and the kind's letters are part of its entropy."""
        words = (f"{self.purpose}/{self.kind}", self.concepts)
        tag, concepts = (int.from_bytes(word.encode(), "big") for word in words)
        return np.random.default_rng(np.random.SeedSequence([tag, self.seed, self.index, concepts]))


@dataclass(frozen=True)
class Corpus:
    """Drawn images of one kind, and what is in them.

    Attributes:
        kind: "derm" or "chest".
        images: (N, S, S, 3) uint8.
        places: (N, concepts, G, G) uint8, how much of each cell of the grid each concept covers; 255: all of it.
        profiles: the concept values of each.
        groups: the diagnostic group of each, None where the concepts are of no group.
    """

    kind: str
    images: np.ndarray
    places: np.ndarray
    profiles: list[dict[str, str]]
    groups: list[str | None]

    def __len__(self) -> int:
        return len(self.images)

    def truth(self) -> np.ndarray:
        """(N, P) bool: which of the kind's P terms are true of each image."""
        return np.array([[term.true_of(profile) for term in terms(self.kind)] for profile in self.profiles])


def draw_corpus(
    kind: str,
    number: int,
    purpose: str,
    seed: int,
    size: int,
    mix: Sequence[str] = (GROUP,),
    grid: int = 8,
    folder: Path | None = None,
) -> Corpus:
    """Draws `number` cases; they depend on the arguments alone, not on the number of processes.

    Args:
        kind: "derm" or "chest".
        number: how many.
        purpose: see `Case`.
        seed: of the set.
        size: pixels a side.
        mix: whose concepts the first, second, ... case has, again and again; see `Case`.
        grid: cells a side in which the places of the concepts are kept; must divide 3/2 of `size`.
        folder: where the cases are kept; what lies there already is not drawn again. None: nothing is kept.
    """
    path = folder / f"{kind}-{number}-{purpose}-{seed}-{size}-{grid}-{'-'.join(mix)}.npz" if folder else None
    if path and path.exists():
        with np.load(path) as file:
            return Corpus(kind, file["images"], file["places"], *json.loads(str(file["told"])))
    cases = [Case(kind, purpose, seed, i, size, mix[i % len(mix)], grid) for i in range(number)]
    images, places, profiles, groups = map(list, zip(*draw_cases(draw_case, cases, f"drawing {kind}"), strict=True))
    corpus = Corpus(kind, np.stack(images), np.stack(places), profiles, groups)
    if path:
        told = np.array(json.dumps([profiles, groups]))
        with atomic_path(path) as temporary, temporary.open("wb") as out:
            np.savez(out, images=corpus.images, places=corpus.places, told=told)
    return corpus


def draw_case(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, str], str | None]:
    """Draws one case: its image (S, S, 3) uint8, its places (concepts, G, G) uint8, its profile, and its group."""
    rng = case.rng()
    table = TABLES[case.kind]
    group = None
    if case.concepts == GROUP:
        shares = _GROUP_SHARES[case.kind]
        group = str(rng.choice(list(shares), p=list(shares.values())))
        profile = table.sample(group, rng)
    elif case.concepts == UNIFORM:
        profile = table.sample_uniform(rng)
    else:
        profile = {
            concept: str(rng.choice(values[1:])) if rng.random() < _SPARSE else ABSENT
            for concept, values in table.values.items()
        }
    drawing = _DRAW[case.kind](profile, rng, round(_LARGER * case.size))
    image = Image.fromarray(drawing.image).resize((case.size, case.size), Image.Resampling.BICUBIC)
    grid, cell = case.grid, len(drawing.image) // case.grid
    places = np.zeros((len(table.values), grid, grid), np.uint8)
    for i, concept in enumerate(table.values):
        if concept in drawing.masks:
            covered = drawing.masks[concept].reshape(grid, cell, grid, cell).mean((1, 3))
            places[i] = np.round(255 * covered).astype(np.uint8)
    return np.asarray(image), places, profile, group


@dataclass(frozen=True)
class Sentences:
    """What the sentences of a batch say; each of its P phrases states one term.

    Attributes:
        captions: (N, P) bool, which terms the captions of the batch's first N images state.
        groups: (N,) the diagnosis that each caption names as the number of a group, or -1.
        rivals: (P,) the number of the concept whose values exclude each other, or -1 for vague terms.
    """

    captions: Tensor
    groups: Tensor
    rivals: Tensor


class TrainingSet:
    """What a step needs of one kind of image, ready as tensors."""

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        table = TABLES[corpus.kind]
        concepts, names = list(table.values), list(table.given)
        self.corpus, self.device = corpus, device
        self.terms = terms(corpus.kind)
        self.truth = torch.tensor(corpus.truth(), device=device)  # (N, P)
        numbers = [[v.index(profile[c]) for c, v in table.values.items()] for profile in corpus.profiles]
        self.values = torch.tensor(numbers, device=device)  # (N, concepts)
        groups = [names.index(group) if group else -1 for group in corpus.groups]
        self.groups = torch.tensor(groups, device=device)  # (N,)
        exact = [len(term.values) == 1 and term.concept in concepts for term in self.terms]
        rivals = [concepts.index(term.concept) if one else -1 for term, one in zip(self.terms, exact, strict=True)]
        self.rivals = torch.tensor(rivals, device=device)  # (P,)

    def batch(
        self, size: int, captioned: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, Sentences, list[str], list[str]]:
        """Numbers of images (B,), what is said of them, the captions of the first N of them, and P phrases."""
        corpus = self.corpus
        chosen = rng.choice(len(corpus), size=min(size, len(corpus)), replace=False)
        first = chosen[:captioned]
        captions = [make_caption(corpus.kind, corpus.profiles[i], rng, corpus.groups[i]) for i in first]
        said = torch.tensor([[term in caption.said for term in self.terms] for caption in captions], device=self.device)
        named = torch.tensor([caption.diagnosis is not None for caption in captions], device=self.device)
        groups = torch.where(named, self.groups[first], -1)
        phrases = [phrase(term, rng) for term in self.terms]
        return chosen, Sentences(said, groups, self.rivals), [caption.text for caption in captions], phrases


# Largest shift (of the side), change of scale, and turn (radians) of the frame.
_SHIFT, _SCALE, _TURN = 0.06, 0.12, 0.15


def augment(kind: str, pixels: Tensor, places: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cheap changes of images while training, so that features do not hang on one camera or one exposure.

    No change touches what a caption says: skin has no up or down, so it is flipped and turned; a chest has a left and
    a right, so it is not.

    Args:
        kind: "derm" or "chest".
        pixels: (B, 3, S, S) in [0, 1].
        places: (B, concepts, G, G) in [0, 1], where the concepts lie; they go where the pixels go.
        generator: of the random numbers, on the CPU.

    Returns:
        Both, of the same shapes and ranges.
    """
    if kind == "derm":  # all of a batch by one of the eight symmetries of the square: batches differ, which is enough
        turns, flip = (int(n) for n in torch.randint(0, 4, (2,), generator=generator))
        pixels, places = pixels.rot90(turns, (2, 3)), places.rot90(turns, (2, 3))
        if flip % 2:
            pixels, places = pixels.flip(3), places.flip(3)
    lot = float(torch.rand((), generator=generator))
    if lot < 0.15:  # some batches each: seeing comes first, and robustness costs steps
        # Shift, scale and turn of each image; the rim is mirrored.
        draws = torch.rand(len(pixels), 4, generator=generator) * 2 - 1
        angle, scale = draws[:, 0] * _TURN, 1 + draws[:, 1] * _SCALE
        cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
        rows = torch.stack([cosine, -sine, 2 * _SHIFT * draws[:, 2], sine, cosine, 2 * _SHIFT * draws[:, 3]], dim=1)
        matrices = rows.view(-1, 2, 3).to(pixels)
        pixels, places = (
            F.grid_sample(
                images,
                F.affine_grid(matrices, list(images.shape), align_corners=False),
                padding_mode="reflection",
                align_corners=False,
            )
            for images in (pixels, places)
        )
    elif lot < 0.45:
        # Brightness, contrast, for skin the balance of the colours, and for a quarter of these batches a gamma.
        draws = (torch.rand(len(pixels), 5, 1, 1, generator=generator) * 2 - 1).to(pixels)
        if float(torch.rand((), generator=generator)) < 0.25:
            pixels = pixels.clamp(min=1e-3) ** float(0.75 + 0.6 * torch.rand((), generator=generator))
        contrast, brightness = 1 + 0.25 * draws[:, :1], 0.1 * draws[:, 1:2]
        middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
        gain = contrast * (1 + (0.08 if kind == "derm" else 0.0) * draws[:, 2:])
        pixels = pixels * gain + (brightness + middle * (1 - contrast))
    elif lot < 0.6:
        if float(torch.rand((), generator=generator)) < 0.5:  # blur, or grain
            pixels = 0.4 * pixels + 0.6 * F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        else:
            pixels = pixels + torch.randn(pixels.shape, generator=generator).to(pixels) * 0.03
    return pixels.clamp(0, 1), places
