"""Pictures to pretrain on and to probe with: drawn by several processes, kept as bytes, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from xcoop.files import atomic_path, atomic_write_text
from xcoop.names import unknown
from xcoop.phantom.chest import draw_chest
from xcoop.phantom.chest_tables import CHEST_TABLE
from xcoop.phantom.dermoscopy import draw_dermoscopy
from xcoop.phantom.folders import draw_cases
from xcoop.phantom.tables import ABSENT, DERM_TABLE, ConceptTable
from xcoop.phantom.terms import concepts, terms
from xcoop.reading import read_json

# Share of each diagnostic group among the pictures that have one.
_GROUP_SHARES: dict[str, dict[str, float]] = {
    "derm": {"NEV": 0.35, "MEL": 0.30, "BCC": 0.12, "SK": 0.12, "MISC": 0.11},
    "chest": {"normal": 0.4, "bacterial": 0.35, "viral": 0.25},
}

_KINDS: dict[str, tuple[ConceptTable, Callable[[Mapping[str, str], np.random.Generator, int], Any]]] = {
    "derm": (DERM_TABLE, draw_dermoscopy),
    "chest": (CHEST_TABLE, draw_chest),
}

# Whose concepts a case has: those of a "group", from its table; or, to learn from, with every value equally often
# ("uniform", which crowds the pictures) or at most as many as real lesions and chests show ("sparse").
GROUP, UNIFORM, SPARSE = "group", "uniform", "sparse"
TO_LEARN_FROM = (SPARSE, GROUP, SPARSE, UNIFORM, SPARSE)
_SPARSE = 0.4  # the share of a sparse case's concepts that are present

# Pictures are drawn larger and then reduced, as real ones are; without it fine lines would be sharper than in use.
_LARGER = 1.5

# A shard is drawn at once and then written: what a killed drawing loses at most.
_SHARD = 1500


@dataclass(frozen=True)
class Case:
    """What is to be drawn.

    Attributes:
        kind: "derm" or "chest".
        purpose: "pretrain", "validate", "probe", ...: no two purposes ever share a random stream.
        seed: of the whole set.
        index: of the case in the set.
        size: pixels a side of the reduced picture.
        concepts: `GROUP`, `UNIFORM` or `SPARSE`.
        grid: cells a side in which the places of the concepts are kept.
    """

    kind: str
    purpose: str
    seed: int
    index: int
    size: int
    concepts: str = GROUP
    grid: int = 8

    def rng(self) -> np.random.Generator:
        """The case's own stream. The purpose's and the kind's letters are part of its entropy."""
        words = (f"{self.purpose}/{self.kind}", self.concepts)
        tag, concepts = (int.from_bytes(word.encode(), "big") for word in words)
        return np.random.default_rng(np.random.SeedSequence([tag, self.seed, self.index, concepts]))


@dataclass(frozen=True)
class Corpus:
    """Drawn pictures of one kind, and what is in them.

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
        """(N, P) bool: which of the kind's P terms are true of each picture."""
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
    """Draws `number` cases.

    Args:
        kind: "derm" or "chest".
        number: how many.
        purpose: see `Case`.
        seed: of the set.
        size: pixels a side.
        mix: whose concepts the first, second, ... case has, again and again; see `Case`.
        grid: cells a side in which the places of the concepts are kept; must divide 3/2 of `size`.
        folder: where shards are kept; what lies there already is not drawn again. None: nothing is kept.

    Returns:
        The corpus; it depends on the arguments alone, not on the number of processes or on interruptions.
    """
    cases = [Case(kind, purpose, seed, i, size, mix[i % len(mix)], grid) for i in range(number)]
    shards = [cases[start : start + _SHARD] for start in range(0, number, _SHARD)]
    with tqdm(total=number, desc=f"drawing {kind}", unit="image", disable=None) as bar:
        parts = []
        for shard in shards:
            parts.append(_shard(shard, mix, folder))
            bar.update(len(shard))
    arrays = {name: np.concatenate([part[0][name] for part in parts]) for name in ("images", "places")}
    records = [record for part in parts for record in part[1]]
    return Corpus(
        kind,
        arrays["images"],
        arrays["places"],
        [record["profile"] for record in records],
        [record["group"] for record in records],
    )


def draw_case(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, str], str | None]:
    """Draws one case: its picture (S, S, 3) uint8, its places (concepts, G, G) uint8, its profile, and its group."""
    rng = case.rng()
    tables, draw = _KINDS[case.kind]
    group = _group(case.kind, rng) if case.concepts == GROUP else None
    profile = tables.sample(group, rng) if group else _profile(tables, case.concepts, rng)
    drawing = draw(profile, rng, round(_LARGER * case.size))
    picture = Image.fromarray(drawing.image).resize((case.size, case.size), Image.Resampling.BICUBIC)
    places = [_coverage(drawing.masks.get(concept), case.grid) for concept in concepts(case.kind)]
    return np.asarray(picture), np.stack(places), dict(profile), group


def _profile(tables: ConceptTable, how: str, rng: np.random.Generator) -> dict[str, str]:
    if how == UNIFORM:
        return tables.sample_uniform(rng)
    if how != SPARSE:
        raise ValueError(unknown("concepts of a case", how, (GROUP, UNIFORM, SPARSE)))
    return {
        concept: str(rng.choice([v for v in values if v != ABSENT])) if rng.random() < _SPARSE else ABSENT
        for concept, values in tables.values.items()
    }


def _coverage(mask: np.ndarray | None, grid: int) -> np.ndarray:
    """(S, S) bool to the covered part of each of grid x grid cells, as uint8."""
    if mask is None:
        return np.zeros((grid, grid), np.uint8)
    cell = len(mask) // grid
    return np.round(255 * mask.reshape(grid, cell, grid, cell).mean((1, 3))).astype(np.uint8)


def concept_values(kind: str, profiles: list[dict[str, str]]) -> Mapping[tuple[str, str], np.ndarray]:
    """Of each concept value, (N,) bool: which profiles have it."""
    pairs = sorted({(concept, profile[concept]) for profile in profiles for concept in concepts(kind)})
    return {(c, v): np.array([profile[c] == v for profile in profiles]) for c, v in pairs}


TABLES = {"derm": DERM_TABLE, "chest": CHEST_TABLE}


def value_counts(kind: str) -> list[int]:
    """How many values each concept has."""
    return [len(TABLES[kind].values[concept]) for concept in concepts(kind)]


def value_numbers(kind: str, profiles: list[dict[str, str]]) -> np.ndarray:
    """(N, concepts) int64: the place of each profile's value among the values of its concept."""
    values = TABLES[kind].values
    return np.array([[values[c].index(profile[c]) for c in concepts(kind)] for profile in profiles])


def _group(kind: str, rng: np.random.Generator) -> str:
    shares = _GROUP_SHARES[kind]
    return str(rng.choice(list(shares), p=list(shares.values())))


def _shard(cases: list[Case], mix: Sequence[str], folder: Path | None) -> tuple[dict[str, np.ndarray], list[dict]]:
    if folder is None:
        return _drawn(cases)
    first = cases[0]
    of = f"{first.purpose}-{first.kind}-{first.seed}-{first.size}-{first.grid}-{'-'.join(mix)}"
    name = folder / f"{of}-{first.index}-{len(cases)}"
    arrays, records = name.with_suffix(".npz"), name.with_suffix(".json")
    if not records.exists():  # written last
        drawn, described = _drawn(cases)
        with atomic_path(arrays) as temporary, temporary.open("wb") as file:
            np.savez(file, images=drawn["images"], places=drawn["places"])
        atomic_write_text(records, json.dumps(described))
    with np.load(arrays) as file:
        return dict(file), read_json(records)


def _drawn(cases: list[Case]) -> tuple[dict[str, np.ndarray], list[dict]]:
    drawn = draw_cases(draw_case, cases, progress=False)
    arrays = {"images": np.stack([case[0] for case in drawn]), "places": np.stack([case[1] for case in drawn])}
    return arrays, [{"profile": profile, "group": group} for _, _, profile, group in drawn]
