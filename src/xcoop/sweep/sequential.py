"""Runs the seeds of methods on a dataset: what is finished is skipped, what was interrupted goes on; then the table.

A run is finished if its `results.json` is whole and belongs to the same settings. Nothing finished is overwritten.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xcoop.results.folder import busy, check_free
from xcoop.results.record import Origin, read_run
from xcoop.results.table import collect, render
from xcoop.runs.plan import Plan, environment_defaults
from xcoop.sweep import subprocess_run as child
from xcoop.utils.console import FAILED, complain, say
from xcoop.utils.files import unguarded


def execute(plans: Sequence[Plan], shots: int, seeds: Sequence[int], program: Sequence[str] = child.TRAIN) -> int:
    """Runs what is not finished, and prints the table.

    Args:
        plans: of one dataset.
        shots: the table's; methods that train nothing stand in it, too.
        seeds: that each row of the table ought to have.
        program: what trains; the arguments of `train.py` are added.

    Returns:
        The exit code: 0 if every run is finished at the end.

    Raises:
        UserError: a finished run has other settings; nothing was started then.
        ValueError: the record of a finished run is damaged.
    """
    start = time.monotonic()
    jobs = [(plan, seed) for plan in plans for seed in plan.seeds]
    states = [finished(plan, seed) for plan, seed in jobs]  # conflicts come to light before anything runs
    for (plan, seed), done in zip(jobs, states, strict=True):
        if done:
            say(f"{plan.title(seed)}: finished before, in {plan.seed_folder(seed)}")
    todo = [job for job, done in zip(jobs, states, strict=True) if not done]
    if todo:
        warn_without_locks(Path(plans[0].out))
    with terminable():
        failed = _run_all(todo, program)
    _conclude(plans[0], shots, seeds)
    minutes, rest = divmod(round(time.monotonic() - start), 60)
    say(f"{len(todo)} run{'' if len(todo) == 1 else 's'} in {minutes} min {rest} s.")
    return FAILED if failed else 0


def warn_without_locks(out: Path) -> None:
    """Says, once for all runs of a launcher, if nothing keeps another launcher out of them."""
    if why := unguarded(out):
        complain(f"warning: {why}")


def finished(plan: Plan, seed: int) -> bool:
    """Whether a run is done.

    Raises:
        UserError: its folder holds a run, finished or interrupted, with other settings.
        ValueError: its record is damaged.
    """
    folder = plan.seed_folder(seed)
    check_free(folder, plan.config(seed), Origin())
    return read_run(folder) is not None


def _run_all(jobs: Sequence[tuple[Plan, int]], program: Sequence[str]) -> int:
    """Runs jobs one after the other, those that another launcher is at once more at the end; how many failed."""
    failed, later, said = 0, [], ""
    for plan, seed in jobs:
        if busy(plan.seed_folder(seed)):
            say(f"{plan.title(seed)}: another process is at it; left for the end")
            later.append((plan, seed))
        elif not finished(plan, seed):  # another launcher may have been quicker
            end = child.run(plan.words(seed), plan.title(seed), program)
            if end.busy:
                later.append((plan, seed))
                continue
            failed += not _report(plan, seed, end, said)
            said = end.message if end.code else said
    for plan, seed in later:
        _wait_for(plan.seed_folder(seed), plan.title(seed))
        if not finished(plan, seed):
            failed += not _report(plan, seed, child.run(plan.words(seed), plan.title(seed), program), said)
    return failed


def _report(plan: Plan, seed: int, end: child.End, said: str) -> bool:
    """Says how a run ended; whether it succeeded. `said` is the last error shown, which is not shown twice."""
    title, folder = plan.title(seed), plan.seed_folder(seed)
    done = read_run(folder) if end.code == 0 else None
    if done:
        say(f"{title}: accuracy {100 * done['metrics']['accuracy']:.1f}% ({end.seconds:.0f} s)")
        return True
    if end.code == 0:
        say(f"{title}: FAILED: it ended without a results.json (TEST.NO_TEST?)")
        return False
    message = "(the same error)" if end.message == said else end.message
    log = f"; log: {folder / 'log.txt'}" if (folder / "log.txt").is_file() else ""
    say(f"{title}: FAILED ({end.reason}{log})", *(f"    {line}" for line in message.splitlines()))
    return False


def _wait_for(folder: Path, title: str) -> None:
    if busy(folder):
        say(f"{title}: waiting for the process that is at it")
    while busy(folder):
        time.sleep(1)


def _conclude(plan: Plan, shots: int, seeds: Sequence[int]) -> None:
    """The table of all that was run on this dataset with these shots, and where everything lies."""
    folder = plan.dataset_folder
    say(
        "",
        render(collect(folder, shots, seeds), folder.name),
        f"Logs, predictions and checkpoints: {folder}",
        f"This table as markdown, LaTeX, CSV or JSON: xcoop table {folder.name} {shots} --out {plan.out} --format ...",
        f"Tables, curves and comparisons of everything below {plan.out}: {_results(plan.out, seeds)}",
    )


def _results(out: str, seeds: Sequence[int]) -> str:
    """The command that makes the tables; with the seeds where it would expect others."""
    given = " ".join(map(str, seeds))
    usual = environment_defaults()["seeds"].replace(",", " ").split() == given.split()
    return shlex.join(["xcoop", "results", out, *([] if usual else ["--seeds", given])])


@contextmanager
def terminable() -> Iterator[None]:
    """A request to terminate ends like Ctrl-C: the running child is ended, and its checkpoints stay good."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        say("", "Interrupted. The same command goes on where this one stopped.")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
