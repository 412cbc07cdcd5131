"""What the benchmarks measure with: time in turns, the share a device is busy, the most memory a piece of work takes.

Work is a function without arguments. A share of a second tells little on a drifting machine, so variants take turns in
one process (`in_turns`), and what is shown of a ratio is its median and range over the rounds.
"""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from xcoop.results.record import hardware

Work = Callable[[], object]


class Cost(NamedTuple):
    """Of one piece of work: seconds on the clock, and CPU seconds of this process, all threads together."""

    wall: float
    cpu: float


def described(device: str) -> str:
    """The device's name, and what computes there: `NVIDIA H100, torch 2.11.0`, say."""
    known = hardware(torch.device(device))
    name = known["device"] if device != "cpu" else f"{known['processor']}, {known['threads']} threads"
    return f"{name}, torch {torch.__version__}"


def wait(device: str) -> None:
    """Until a device has done all that was launched there."""
    if device == "cuda":
        torch.cuda.synchronize()


def cost(work: Work, device: str, times: int = 1) -> Cost:
    """Of one piece of work, from the start to its end on the device; `times` are done before that is waited for."""
    wait(device)
    start, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    wait(device)
    return Cost((time.perf_counter() - start) / times, (time.process_time() - used) / times)


def in_turns(works: Mapping[str, Work], rounds: int, device: str, times: int = 1) -> dict[str, list[Cost]]:
    """Each piece of work once a round, one after the other; a round before that warms up, and is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            one = cost(work, device, times)
            costs[name] += [one] * (round_ > 0)
    return costs


def median(costs: Iterable[Cost]) -> float:
    """Seconds on the clock."""
    return statistics.median(one.wall for one in costs)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median and range: `2.10 (1.90-2.30)`."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    return f"{statistics.median(ordered):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratios(ones: Iterable[Cost], others: Iterable[Cost]) -> list[float]:
    """Round by round, how many times longer the first took than the second."""
    return [one.wall / other.wall for one, other in zip(ones, others, strict=True)]


class Busy(NamedTuple):
    """How busy a device is: the share of the time, in [0, 1], and the kernels of a piece of work (on a GPU)."""

    share: float
    kernels: int | None

    def __str__(self) -> str:
        return f"{100 * self.share:.0f} %" + (f" of {self.kernels} kernels" if self.kernels is not None else "")


def busy(work: Work, costs: Sequence[Cost], device: str) -> Busy:
    """The kernels' time in a profile of the work over its time without one; on a CPU, CPU time over clock and threads.

    Args:
        work: one piece of it.
        costs: what it took in the rounds.
        device: cpu or cuda.
    """
    if device != "cuda":
        share = statistics.median(one.cpu / one.wall for one in costs) / torch.get_num_threads()
        return Busy(share, None)
    wait(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        work()
        wait(device)
    seconds, kernels = on_device(trace.events())
    return Busy(seconds / median(costs), kernels)


def on_device(events: Iterable[Any]) -> tuple[float, int]:
    """Seconds and number of the kernels and copies in a profile's events.

    Ranges that programmes name (an optimiser's step) stand among the events of a device, too: they are no kernels.
    """
    own = [one for one in events if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
    return sum(one.time_range.elapsed_us() for one in own) / 1e6, len(own)


def peak_memory(work: Work, device: str) -> float:
    """Bytes that the work holds at its peak, beyond what was held before; on a CPU of the process, as Linux sees it.

    NaN where that is not to be known.
    """
    gc.collect()
    if device == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        wait(device)
        return float(torch.cuda.max_memory_allocated() - before)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or else the work would find it there
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        work()
        return float("nan")
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    """Bytes of this process in memory."""
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return 1024.0 * int(found[1]) if found else float("nan")


def rows(cells: Iterable[Sequence[object]]) -> str:
    """Of a Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in cells)


def head(names: Sequence[str]) -> str:
    """The first two lines of a Markdown table."""
    return rows([names, ["---"] * len(names)])
