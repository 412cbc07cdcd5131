"""Workers, one a GPU or one a group of cores, and the jobs that are handed to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xcoop.sweep.jobs import Job, Outcome


@dataclass(frozen=True)
class Slot:
    """Where a worker runs: its name in messages, and what its environment has besides ours."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


def slots(workers: int | None = None, gpus: Sequence[str] | None = None, cores: int | None = None) -> list[Slot]:
    """One slot a GPU; without GPUs one for each group of cores.

    Args:
        workers: how many; default: one a GPU, or as many as cores and memory suggest.
        gpus: ids for CUDA_VISIBLE_DEVICES; default: all that this process sees.
        cores: default: those that this process may use.
    """
    raise NotImplementedError


def run_pool(
    jobs: Sequence[Job], where: Sequence[Slot], journal: Path, retries: int = 1, program: Sequence[str] = ()
) -> dict[Job, Outcome]:
    """Runs jobs on workers, retries what failed in a fresh process, and returns how each ended."""
    raise NotImplementedError
