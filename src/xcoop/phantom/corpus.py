"""Pictures to pretrain on and to probe with: drawn by several processes, kept as bytes, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xcoop.files import atomic_path, atomic_write_text, read_json
from xcoop.phantom.chest import draw_chest
from xcoop.phantom.chest_tables import CHEST_TABLE
from xcoop.phantom.dermoscopy import draw_dermoscopy
from xcoop.phantom.folders import draw_cases
from xcoop.phantom.tables import DERM_TABLE, ConceptTable
from xcoop.phantom.terms import concepts, terms

# Share of each diagnostic group among the pictures that have one.
_GROUP_SHARES: dict[str, dict[str, float]] = {
    "derm": {"NEV": 0.35, "MEL": 0.30, "BCC": 0.12, "SK": 0.12, "MISC": 0.11},
    "chest": {"normal": 0.4, "bacterial": 0.35, "viral": 0.25},
}

_KINDS: dict[str, tuple[ConceptTable, Callable[[Mapping[str, str], np.random.Generator, int], Any]]] = {
    "derm": (DERM_TABLE, draw_dermoscopy),
    "chest": (CHEST_TABLE, draw_chest),
}

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
        size: pixels a side.
        uniform: draw every value of every concept equally often, or from the table of a diagnostic group.
    """

    kind: str
    purpose: str
    seed: int
    index: int
    size: int
    uniform: bool

    def rng(self) -> np.random.Generator:
        """The case's own stream. The purpose's and the kind's letters are part of its entropy."""
        tag = int.from_bytes(f"{self.purpose}/{self.kind}".encode(), "big")
        return np.random.default_rng(np.random.SeedSequence([tag, self.seed, self.index, int(self.uniform)]))


@dataclass(frozen=True)
class Corpus:
    """Drawn pictures of one kind, and what is in them.

    Attributes:
        kind: "derm" or "chest".
        images: (N, S, S, 3) uint8.
        profiles: the concept values of each.
        groups: the diagnostic group of each, None where the concepts were drawn uniformly.
    """

    kind: str
    images: np.ndarray
    profiles: list[dict[str, str]]
    groups: list[str | None]

    def __len__(self) -> int:
        return len(self.images)

    def truth(self) -> np.ndarray:
        """(N, P) bool: which of the kind's P terms are true of each picture."""
        return np.array([[term.true_of(profile) for term in terms(self.kind)] for profile in self.profiles])


def draw_corpus(
    kind: str, number: int, purpose: str, seed: int, size: int, uniform: float = 0.5, folder: Path | None = None
) -> Corpus:
    """Draws `number` cases, the first `uniform` part of every ten with uniformly drawn concepts.

    Args:
        kind: "derm" or "chest".
        number: how many.
        purpose: see `Case`.
        seed: of the set.
        size: pixels a side.
        uniform: share of the cases whose concepts are drawn uniformly, in tenths.
        folder: where shards are kept; what lies there already is not drawn again. None: nothing is kept.

    Returns:
        The corpus; it depends on the arguments alone, not on the number of processes or on interruptions.
    """
    cases = [Case(kind, purpose, seed, i, size, uniform=i % 10 < round(10 * uniform)) for i in range(number)]
    shards = [cases[start : start + _SHARD] for start in range(0, number, _SHARD)]
    with tqdm(total=number, desc=f"drawing {kind}", unit="image", disable=None) as bar:
        parts = []
        for shard in shards:
            parts.append(_shard(shard, folder))
            bar.update(len(shard))
    images = np.concatenate([part[0] for part in parts])
    records = [record for part in parts for record in part[1]]
    return Corpus(kind, images, [record["profile"] for record in records], [record["group"] for record in records])


def draw_case(case: Case) -> tuple[np.ndarray, dict[str, str], str | None]:
    """Draws one case: its picture (S, S, 3) uint8, its profile, and its group."""
    rng = case.rng()
    tables, draw = _KINDS[case.kind]
    group = None if case.uniform else _group(case.kind, rng)
    profile = tables.sample_uniform(rng) if group is None else tables.sample(group, rng)
    return draw(profile, rng, case.size).image, dict(profile), group


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


def _shard(cases: list[Case], folder: Path | None) -> tuple[np.ndarray, list[dict]]:
    if folder is None:
        return _drawn(cases)
    first = cases[0]
    name = folder / f"{first.purpose}-{first.kind}-{first.seed}-{first.size}-{first.index}-{len(cases)}"
    pixels, records = name.with_suffix(".npy"), name.with_suffix(".json")
    if not records.exists():  # written last
        images, described = _drawn(cases)
        with atomic_path(pixels) as temporary, temporary.open("wb") as file:
            np.save(file, images)
        atomic_write_text(records, json.dumps(described))
    return np.load(pixels), read_json(records)


def _drawn(cases: list[Case]) -> tuple[np.ndarray, list[dict]]:
    drawn = draw_cases(draw_case, cases, progress=False)
    images = np.stack([image for image, _, _ in drawn])
    return images, [{"profile": profile, "group": group} for _, profile, group in drawn]
