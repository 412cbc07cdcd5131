"""`xcoop sweep`: many runs, on all GPUs or cores or on a Slurm cluster, and what became of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.commands.run import SKIP
from xcoop.runs.plan import split_words
from xcoop.utils.console import FAILED as EXIT_FAILED
from xcoop.utils.console import UserError, complain, environment_defaults, say, shown

if TYPE_CHECKING:
    from xcoop.sweep.grid import Grid
    from xcoop.sweep.job import Job
    from xcoop.sweep.slurm import Options

# Options of sbatch that a task needs from us, and what says them instead.
OURS = {
    "array": "--runs-per-task and --array-parallelism",
    "cpus-per-task": "--cpus",
    "gpus-per-node": "--gpus",
    "partition": "--partition",
    "time": "--time",
    **dict.fromkeys(("job-name", "output", "error", "open-mode", "no-requeue", "wrap", "ntasks", "nodes", "chdir"), ""),
}

EPILOG = """\
examples:
  xcoop sweep phantom                                XCoOp on the phantom, 1 2 4 8 16 shots, seeds 1 2 3
  xcoop sweep phantom,pneumonia all 16               every method on two datasets, 16 shots
  xcoop sweep phantom "XCoOp CoOp" "4 16" "1 2 3"    lists are separated by blanks or commas
  xcoop sweep phantom CoOp 16 1 TRAINER.COOP.N_CTX 8
  xcoop sweep --grid grid.yaml --dry-run             what would be run, and what is done
  xcoop sweep phantom CoOp --setting base-to-new DATASET.TASK five-groups
  xcoop sweep phantom CoOp --setting cross --targets derm7pt,ph2
  xcoop sweep phantom all 16 --slurm --partition gpu --time 120 --array-parallelism 8

A grid file holds any of: datasets, trainers, shots, seeds, cfgs, backbones, setting, targets, and KEY: [values].
Everything is crossed; words of the command line win over the file. What is to change alone stands in
  variants: [{}, {KEY: value}, {KEY: value, KEY: value}]       {} is the method as it is; crossed with all the rest

Runs lie where `xcoop run` puts them. What is finished is skipped, what was interrupted goes on, what fails is tried
once more in a fresh process. Runs of a method that passes a frozen text tower at each step are trained side by side,
all prompts in one pass. Several launchers may work on one output folder. Exit code 1: a run failed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop sweep`."""
    defaults = environment_defaults()
    parser.usage = "xcoop sweep <dataset[,dataset]> [trainers|all] [shots] [seeds] [KEY VALUE ...] [options]"
    parser.description = "Runs every combination of datasets, methods, shots and seeds, on all GPUs or cores."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("words", nargs="*", metavar="<dataset> ...", help="see above; lists in one word")
    parser.add_argument("--grid", type=Path, help="a YAML file with the axes of the sweep")
    parser.add_argument("--cfg", help="configurations of the methods, e.g. vit_b16,rn50")
    parser.add_argument("--backbones", help="by their own names, e.g. ViT-B/16,RN50")
    parser.add_argument("--setting", default="", help="few-shot (default), full, base-to-new, cross")
    parser.add_argument("--targets", help="of --setting cross: datasets to test on")
    parser.add_argument("--data", default=defaults["data"], help="the data root (default: $DATA, else data)")
    parser.add_argument("--out", default=defaults["out"], help="the output root (default: $OUT, else output)")
    parser.add_argument("--workers", type=int, help="processes (default: one a GPU, or as cores and memory allow)")
    parser.add_argument("--gpus", help="ids of the GPUs to use (default: all that are visible)")
    parser.add_argument("--one-by-one", action="store_true", help="train no runs side by side; on Slurm, none are")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what is done, and stop")
    parser.add_argument("--skip-missing", action="store_true", help=SKIP)
    group = parser.add_argument_group("on a Slurm cluster (see docs/slurm.md)")
    group.add_argument("--slurm", action="store_true", help="run as job arrays; needs submitit, and a login node")
    group.add_argument("--detach", action="store_true", help="submit, and do not wait; the same command attaches later")
    group.add_argument("--partition", help="default: the cluster's own")
    group.add_argument("--time", type=int, metavar="MINUTES", help="limit of a task (default: 240)")
    group.add_argument("--cpus", type=int, help="a task (default: 4); with --slurm, --gpus is a number, too, "
                       "and 1 if not given")  # fmt: skip
    group.add_argument("--runs-per-task", type=int, metavar="N", help="runs that share a process (default: 8)")
    group.add_argument("--array-parallelism", type=int, metavar="N", help="tasks at once (default: no limit)")
    group.add_argument("--slurm-option", action="append", default=[], metavar="KEY=VALUE", help="any other option "
                       "of sbatch, e.g. account=mylab, mem=32G, constraint=a100; may be repeated")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Runs it; the exit code is 0 if no run has failed."""
    from xcoop.sweep.grid import jobs as jobs_of
    from xcoop.sweep.grid import left_out
    from xcoop.sweep.job import DONE, FAILED
    from xcoop.sweep.launcher import NOTES, Launcher, make_slots, summary
    from xcoop.sweep.ready import require_ready, stopped_lines, stops

    options = slurm_options(arguments)
    grid = read_grid(arguments)
    jobs = jobs_of(grid)
    for note in left_out(grid, jobs):
        say(f"note: {note}")
    ledger = Path(grid.out, NOTES, "slurm")
    if arguments.dry_run:
        return _list(jobs, ledger if options else None)

    start = time.monotonic()
    if options:
        from xcoop.sweep.slurm import run_on_slurm

        for line in stopped_lines(stops(jobs)):  # a cluster's nodes may have what its login node does not see
            complain(f"warning: from here, {line}")
        ends = run_on_slurm(jobs, ledger, options, arguments.detach)
        if len(ends) == len(jobs):  # else nobody waits
            say(*summary(jobs, ends, time.monotonic() - start, grid.out))
    else:
        jobs = require_ready(jobs, arguments.skip_missing)
        gpus = None if arguments.gpus is None else words_of(arguments.gpus)
        slots = make_slots(arguments.workers, gpus, most=sum(job.state() != DONE for job in jobs))
        launcher = Launcher(jobs, slots, grid.out, one_by_one=arguments.one_by_one)
        try:
            ends = launcher.run()
        finally:
            say(*summary(jobs, launcher.ends, time.monotonic() - start, grid.out))
    return EXIT_FAILED if any(end.state == FAILED for end in ends.values()) else 0


def _list(jobs: Sequence[Job], ledger: Path | None) -> int:
    """Says of each run what is done, and which task of the cluster has it, and what cannot be run; the exit code."""
    from xcoop.sweep.job import DONE
    from xcoop.sweep.ready import stopped_lines, stops

    states = {job: (job.state(), "") for job in jobs}
    ids = ""
    if ledger and ledger.is_dir():
        from xcoop.sweep.slurm import in_queue

        queued, ids = in_queue([job for job, (state, _) in states.items() if state != DONE], ledger)
        states |= {job: (one.name, f"  ({one.message})") for job, one in queued.items()}
    width = max((len(state) for state, _ in states.values()), default=0)
    say(*(f"{state:<{width}}  {job.title}  {job.folder}{note}" for job, (state, note) in states.items()))
    done, held = sum(state == DONE for state, _ in states.values()), sum(bool(note) for _, note in states.values())
    queue = f"{held} in the queue (Slurm jobs: {ids}), " if held else ""
    for line in stopped_lines(stops(jobs)):
        say(f"cannot be run: {line}")
    say(f"{len(jobs)} runs: {done} done, {queue}{len(jobs) - done - held} to do. Nothing was started (--dry-run).")
    return 0


def slurm_options(arguments: argparse.Namespace) -> Options | None:
    """What is asked of Slurm; None without --slurm.

    Raises:
        UserError: an option is wrong, or is for Slurm without --slurm; or something is missing.
    """
    names = ("detach", "partition", "time", "cpus", "runs_per_task", "array_parallelism", "slurm_option")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False, [])]
    if not arguments.slurm:
        if given:
            raise UserError(f"{', '.join(given)} is for a Slurm cluster: add --slurm")
        return None
    if arguments.workers is not None:
        raise UserError("--workers is for this machine; with --slurm, --array-parallelism says how much runs at once")
    for name in ("array_parallelism", "runs_per_task", "time", "cpus"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    gpus = "1" if arguments.gpus is None else arguments.gpus
    if not gpus.isdecimal():
        raise UserError(f"--gpus: with --slurm, how many a task gets (0 for none), not {shown(gpus)}")
    extra = []
    for text in arguments.slurm_option:
        key, _, value = text.partition("=")
        key = key.lstrip("-").replace("_", "-")
        if not key.replace("-", "").isalnum():
            raise UserError(f"--slurm-option {text}: KEY=VALUE with a long option of sbatch, e.g. account=mylab")
        if key in OURS:
            instead = f"use {OURS[key]}" if OURS[key] else "it is set by `xcoop sweep` itself"
            raise UserError(f"--slurm-option {text}: {instead}")
        extra.append((key.replace("-", "_"), value))  # as submitit spells them, so that ours win over its own

    from xcoop.sweep.slurm import Options, require_slurm

    require_slurm()
    asked = {
        "partition": arguments.partition,
        "parallelism": arguments.array_parallelism,
        "runs_per_task": arguments.runs_per_task,
        "minutes": arguments.time,
        "gpus": int(gpus),
        "cpus": arguments.cpus,
    }
    return Options(**{name: value for name, value in asked.items() if value is not None}, extra=tuple(extra))


def read_grid(arguments: argparse.Namespace) -> Grid:
    """The grid that the command line and the grid file ask for together.

    Raises:
        UserError: a word, a name in the file, or a value is wrong.
    """
    from xcoop.config.merge import as_pairs
    from xcoop.sweep.grid import make_grid, read_grid_file

    names, pairs = split_words(arguments.words)
    if len(names) > 4:
        raise UserError(
            f"expected <datasets> [trainers] [shots] [seeds] [KEY VALUE ...], got {' '.join(arguments.words)!r}; "
            'a list is one word: "1 2 3" or 1,2,3'
        )
    asked = dict(zip(("datasets", "trainers", "shots", "seeds"), names, strict=False))
    options = {"cfgs": arguments.cfg, "backbones": arguments.backbones, "targets": arguments.targets}
    asked |= {axis: text for axis, text in options.items() if text is not None}
    axes: dict[str, Any] = read_grid_file(arguments.grid) if arguments.grid else {}
    for axis, text in asked.items():
        axes[axis] = words_of(text)
        if not axes[axis]:
            option = {"cfgs": "--cfg", "backbones": "--backbones", "targets": "--targets"}.get(axis, axis)
            raise UserError(f"{option}: {text!r} names none; leave it out, or name one")
    axes |= {"setting": arguments.setting} if arguments.setting else {}
    axes |= {key: [value] for key, value in as_pairs(pairs)}
    axes.setdefault("seeds", words_of(environment_defaults()["seeds"]))
    return make_grid(axes, arguments.data, arguments.out)


def words_of(text: str) -> list[str]:
    """The words of a list, separated by blanks or commas."""
    return text.replace(",", " ").split()
