"""Many runs through `xcoop sweep`, against the same runs started one by one, as CoOp's scripts start them.

    python benchmarks/sweep.py [--trainers "XCoOp CoOp CoCoOp ZeroshotCLIP"] [--shots "8 16"] [--seeds "1 2"]
                                [--device cpu|cuda]

One by one: a process for each run, images decoded in every epoch (FEATURES.CACHE False), as many threads as PyTorch
takes. The sweep starts with no cached features. Both sides take turns: the single runs come in two halves, with a
whole sweep after each, so that a drifting machine hits both. What counts are the ratios, of the time on the clock and
of CPU time (which hardly depends on what else the machine does). "busy" is CPU time over the time on the clock and the
number of cores; "memory" the most that one run of them used, on the host and on a GPU, as its record says. A phantom's
figures are no clinical results, and none are shown: only how far the accuracies of both sides are apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import described, head, rows
from subjects import DEVICES, parsed

from xcoop.results.record import read_run
from xcoop.sweep.grid import Grid, jobs
from xcoop.sweep.job import Job
from xcoop.utils.console import say

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Cost:
    """Seconds on the clock, and of CPU, all cores together."""

    wall: float = 0.0
    cpu: float = 0.0

    def add(self, work: Callable[[], None], times: int = 1) -> None:
        """Adds what some work costs, its child processes included, as if it were done so many times."""
        start, used = time.perf_counter(), cpu_seconds()
        work()
        self.wall += times * (time.perf_counter() - start)
        self.cpu += times * (cpu_seconds() - used)


def cpu_seconds() -> float:
    """CPU seconds of the child processes that have ended, in user and system mode."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one_by_one(planned: Sequence[Job], *pairs: str) -> None:
    """Each run in a process of its own; `pairs` are further KEY VALUE pairs."""
    for job in planned:
        command = [sys.executable, str(ROOT / "train.py"), *job.words, "FEATURES.CACHE", "False", *pairs]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def swept(args: argparse.Namespace, out: Path) -> None:
    """All of them through `xcoop sweep`, features computed anew."""
    words = [args.datasets, args.trainers, args.shots, args.seeds, "--out", str(out), "--data", args.data]
    words += ["--workers", str(args.workers)] if args.workers else []
    command = [sys.executable, "-m", "xcoop.cli", "sweep", *words, "FEATURES.DIR", str(out / "features")]
    subprocess.run(command, env=os.environ | {"PYTHONSAFEPATH": "1"}, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def most_memory(planned: Sequence[Job]) -> str:
    """The most that one of these runs used, in MiB: of the host, and of a GPU if there is one."""
    records = [record for job in planned if (record := read_run(job.folder))]
    keys = [key for key in ("peak_memory_mb", "peak_gpu_memory_mb") if any(key in record for record in records)]
    return " / ".join(f"{max(record.get(key, 0) for record in records):.0f}" for key in keys)


def accuracies(planned: Sequence[Job]) -> list[float]:
    """Of each run, in percent."""
    records = [read_run(job.folder) for job in planned]
    return [100 * record["metrics"]["accuracy"] for record in records if record]


def plan(args: argparse.Namespace, out: Path) -> list[Job]:
    """The runs below an output folder."""
    axes = (tuple(text.replace(",", " ").split()) for text in (args.datasets, args.trainers))
    numbers = (tuple(map(int, text.replace(",", " ").split())) for text in (args.shots, args.seeds))
    return jobs(Grid(*axes, *numbers, data=args.data, out=str(out)))  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both costs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="phantom")
    parser.add_argument("--trainers", default="XCoOp CoOp CoCoOp ZeroshotCLIP")
    parser.add_argument("--shots", default="8 16")
    parser.add_argument("--seeds", default="1 2")
    parser.add_argument("--workers", type=int, help="of the sweep; default: its own")
    parser.add_argument("--part", action="store_true", help="one by one only the first seed, counted for all of them")
    parser.add_argument("--data", default="data")
    parser.add_argument("--device", choices=DEVICES, help="default: a GPU, if there is one")
    args = parsed(parser, argv)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of all runs
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Runs both sides in turns."""
    one_by_one(plan(args, folder / "first")[:1], "OPTIM.MAX_EPOCH", "1")  # not counted: fills the file cache
    single = plan(args, folder / "one-by-one")
    timed = [job for job in single if not args.part or job.folder.name == first_seed(args)]
    alone, sweeps = Cost(), [Cost(), Cost()]
    middle = (len(timed) + 1) // 2
    for number, part in enumerate((timed[:middle], timed[middle:])):
        for job in part:
            alone.add(lambda job=job: one_by_one([job]), seeds_like(job, single) if args.part else 1)
        sweeps[number].add(lambda number=number: swept(args, folder / f"sweep{number}"))
        say(f"part {number + 1}: {alone.wall:.1f} s one by one so far; sweep of all: {sweeps[number].wall:.1f} s")
    memory = [most_memory(planned) for planned in (timed, *(plan(args, folder / f"sweep{i}") for i in (0, 1)))]
    report(args, len(single), len(timed), [alone, *sweeps], memory)
    swept_too = {job.title: job for job in plan(args, folder / "sweep0")}
    pairs = zip(accuracies(timed), accuracies([swept_too[job.title] for job in timed]), strict=True)
    say(f"largest difference of an accuracy: {max(abs(a - b) for a, b in pairs):.2f} points")


def first_seed(args: argparse.Namespace) -> str:
    """The name of its folders."""
    return f"seed{args.seeds.replace(',', ' ').split()[0]}"


def seeds_like(job: Job, planned: Sequence[Job]) -> int:
    """How many runs differ from this one in nothing but the seed, itself included."""
    return sum(other.folder.parent == job.folder.parent for other in planned)


def report(args: argparse.Namespace, runs: int, timed: int, costs: Sequence[Cost], memory: Sequence[str]) -> None:
    """Prints what each side cost, the single runs first, and the ratios."""
    part = f" ({timed} of them timed, for all seeds)" if timed < runs else ""
    cores, (alone, *sweeps) = os.cpu_count() or 1, costs
    names = [f"one by one{part}", *["xcoop sweep"] * len(sweeps)]
    busy = [f"{100 * cost.cpu / (cost.wall * cores):.0f} %" for cost in costs]
    seconds = [(f"{cost.wall:.1f}", f"{cost.cpu:.1f}") for cost in costs]
    say(
        f"{runs} runs: {args.trainers}, shots {args.shots}, seeds {args.seeds} on {args.datasets}; "
        f"{described(args.device)}, {cores} cores, load {os.getloadavg()[0]:.1f}",
        head(["", "clock, s", "CPU, s", "busy", "memory, MiB"]),
        rows([name, *both, share, most] for name, both, share, most in zip(names, seconds, busy, memory, strict=True)),
    )
    for kind, name in (("clock", "wall"), ("CPU", "cpu")):
        ratios = [getattr(alone, name) / getattr(cost, name) for cost in sweeps]
        say(f"ratio, {kind}: {statistics.fmean(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
