"""Where workers run: one a GPU, or one for each group of cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xcoop.utils.console import UserError

MEMORY = 3 << 30  # bytes that a worker on a CPU is reckoned to need
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """Where a worker runs.

    Attributes:
        name: in messages, e.g. "GPU 0" or "CPU 2"; no two are equal.
        environment: what its environment has besides ours.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)


def make_slots(
    workers: int | None = None,
    gpus: Sequence[str] | None = None,
    cores: int | None = None,
    memory: int | None = None,
    most: int | None = None,
) -> list[Slot]:
    """One slot a GPU; without GPUs one for each group of cores.

    Args:
        workers: how many; default: one a GPU, or as many as cores and memory have room for.
        gpus: ids as CUDA_VISIBLE_DEVICES takes them; default: all that this process sees. () is the CPU.
        cores: default: those that this process may use.
        memory: bytes; default: what is free.
        most: workers that there is work for; the cores are divided among these.

    Raises:
        UserError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    cores = cores or _cores()
    devices = visible_gpus() if gpus is None else list(gpus)
    if devices:
        count = _at_most(most, workers or len(devices))
        chosen = [divmod(number, len(devices)) for number in range(count)]
        names = [f"GPU {devices[at]}" + (f" ({turn + 1})" if turn else "") for turn, at in chosen]
        return [
            _slot(name, cores // count, CUDA_VISIBLE_DEVICES=devices[at])
            for name, (_, at) in zip(names, chosen, strict=True)
        ]
    room = (_free_memory() if memory is None else memory) // MEMORY
    count = _at_most(most, workers or min(cores, room))
    return [_slot(f"CPU {number}", cores // count, CUDA_VISIBLE_DEVICES="") for number in range(count)]


def _at_most(most: int | None, count: int) -> int:
    return max(1, count if most is None else min(count, most))


def _slot(name: str, threads: int, **environment: str) -> Slot:
    """A slot with its share of the cores; a smaller number of threads in our own environment stands."""
    asked = [int(text) for key in THREADS[:1] if (text := os.environ.get(key, "")).isdigit() and int(text) > 0]
    share = str(min([max(1, threads), *asked]))
    return Slot(name, {**environment, **dict.fromkeys(THREADS, share)})


def visible_gpus() -> list[str]:
    """The ids of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # another system: as if there were enough
        return MEMORY * _cores()
