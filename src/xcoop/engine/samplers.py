"""In which order a loader visits the images."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from xcoop.engine.datum import Datum
from xcoop.utils.suggest import unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

_NAMES = ("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")


class GroupSampler(Sampler):
    """Batches made of equal shares of a few groups of images (domains or classes).

    Args:
        data_source: the images.
        attribute: `domain` or `label`.
        batch_size: images a batch.
        n_groups: groups a batch.
        shuffle: which groups a batch takes is random; otherwise always the first ones, in order.

    Raises:
        ValueError: a batch cannot be shared out evenly, or there are fewer groups than a batch takes.
    """

    def __init__(
        self, data_source: Sequence[Datum], attribute: str, batch_size: int, n_groups: int, shuffle: bool = True
    ) -> None:
        self.groups: dict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(data_source):
            self.groups[getattr(item, attribute)].append(index)
        if not 0 < n_groups <= len(self.groups):
            raise ValueError(f"{n_groups} {attribute}s a batch, of {len(self.groups)} that there are")
        if batch_size % n_groups:
            raise ValueError(f"a batch of {batch_size} images cannot hold equal shares of {n_groups} {attribute}s")
        self.share = batch_size // n_groups
        self.n_groups = n_groups
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[int]:
        pools = {key: self._shuffled(indices) for key, indices in self.groups.items()}
        order: list[int] = []
        while len(pools) >= self.n_groups:
            chosen = random.sample(list(pools), self.n_groups) if self.shuffle else list(pools)[: self.n_groups]
            for key in chosen:
                order += [pools[key].pop() for _ in range(self.share)]
            if any(len(pools[key]) < self.share for key in chosen):
                pools = self._without_empty(pools)
        return iter(order)

    def __len__(self) -> int:
        """At most so many; how many exactly depends on the draw."""
        return sum(max(len(indices), self.share) // self.share * self.share for indices in self.groups.values())

    def _shuffled(self, indices: list[int]) -> list[int]:
        """The indices in random order; too few for one share are drawn with repetition."""
        if len(indices) < self.share:
            return random.choices(indices, k=self.share)
        return random.sample(indices, len(indices))

    def _without_empty(self, pools: dict[int, list[int]]) -> dict[int, list[int]]:
        return {key: pool for key, pool in pools.items() if len(pool) >= self.share}


class RandomDomainSampler(GroupSampler):
    """Batches of `n_domain` random domains with equal shares."""

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_domain: int) -> None:
        super().__init__(data_source, "domain", batch_size, n_domain)


class SeqDomainSampler(GroupSampler):
    """Batches of all domains, in order, with equal shares; it ends with the smallest domain."""

    def __init__(self, data_source: Sequence[Datum], batch_size: int) -> None:
        n_domains = len({item.domain for item in data_source})
        super().__init__(data_source, "domain", batch_size, n_domains, shuffle=False)


class RandomClassSampler(GroupSampler):
    """Batches of random classes with `n_ins` images each."""

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        if n_ins < 1 or batch_size % n_ins:
            raise ValueError(f"a batch of {batch_size} images cannot hold {n_ins} of each of its classes")
        super().__init__(data_source, "label", batch_size, batch_size // n_ins)


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """The sampler of that name.

    Args:
        sampler_type: see the names in the message of the error.
        cfg: not needed; kept for callers that pass it.
        data_source: the images.
        batch_size: images a batch.
        n_domain: domains a batch (RandomDomainSampler); below 1, all.
        n_ins: images of a class in a batch (RandomClassSampler).

    Raises:
        ValueError: the name is unknown.
    """
    source = data_source if data_source is not None else []
    if sampler_type == "RandomSampler":
        return RandomSampler(source)
    if sampler_type == "SequentialSampler":
        return SequentialSampler(source)
    if sampler_type == "RandomDomainSampler":
        return RandomDomainSampler(source, batch_size, n_domain if n_domain > 0 else len({d.domain for d in source}))
    if sampler_type == "SeqDomainSampler":
        return SeqDomainSampler(source, batch_size)
    if sampler_type == "RandomClassSampler":
        return RandomClassSampler(source, batch_size, n_ins)
    raise ValueError(unknown("sampler", sampler_type, _NAMES))
