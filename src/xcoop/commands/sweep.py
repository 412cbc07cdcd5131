"""`xcoop sweep`: many runs, on all GPUs or cores, and what became of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.commands import sweep_slurm
from xcoop.runs.plan import environment_defaults
from xcoop.utils.console import FAILED, UserError, say

if TYPE_CHECKING:
    from xcoop.sweep.grid import Grid
    from xcoop.sweep.jobs import Job
    from xcoop.sweep.slurm_held import Held

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
once more in a fresh process. Several launchers may work on one output folder. Exit code 1: a run failed.
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
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what is done, and stop")
    sweep_slurm.add(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs it; the exit code."""
    from xcoop.sweep import grid as grids

    sweep_slurm.check(arguments)
    grid = read_grid(arguments)
    found = grids.jobs(grid)
    for note in grids.left_out(grid, found):
        say(f"note: {note}")
    if arguments.dry_run:
        return _list(found, sweep_slurm.held_by_queue(found, grid.out) if arguments.slurm else {})
    launch = sweep_slurm.execute if arguments.slurm else _run
    return launch(found, arguments, grid.out)


def _run(found: Sequence[Job], arguments: argparse.Namespace, out: str) -> int:
    from xcoop.sweep.launch import DONE, launch, state
    from xcoop.sweep.slots import make_slots

    gpus = None if arguments.gpus is None else words_of(arguments.gpus)
    todo = sum(state(job) != DONE for job in found)
    return FAILED if launch(found, make_slots(arguments.workers, gpus, most=todo), out) else 0


def _list(found: Sequence[Job], held: Mapping[Job, Held]) -> int:
    """Says of each run what is done, and which task of the cluster has it; the exit code."""
    from xcoop.sweep.launch import DONE, state

    states = [held[job].state if job in held else state(job) for job in found]
    width = max(map(len, states), default=0)
    notes = [f"  ({held[job].where})" if job in held else "" for job in found]
    rows = zip(states, found, notes, strict=True)
    say(*(f"{what:<{width}}  {job.title}  {job.folder}{note}" for what, job, note in rows))
    done, ids = states.count(DONE), " ".join(sorted({one.job for one in held.values()}, key=int))
    queue = f"{len(held)} in the queue (Slurm jobs: {ids}), " if held else ""
    say(f"{len(found)} runs: {done} done, {queue}{len(found) - done - len(held)} to do. "
        "Nothing was started (--dry-run).")  # fmt: skip
    return 0


def read_grid(arguments: argparse.Namespace) -> Grid:
    """The grid that the command line and the grid file ask for together.

    Raises:
        UserError: a word, a name in the file, or a value is wrong.
    """
    from xcoop.config.merge import as_pairs
    from xcoop.runs.plan import split_words
    from xcoop.sweep.gridfile import make_grid, read_grid_file

    names, pairs = split_words(arguments.words)
    if len(names) > 4:
        raise UserError(
            f"expected <datasets> [trainers] [shots] [seeds] [KEY VALUE ...], got {' '.join(arguments.words)!r}; "
            'a list is one word: "1 2 3" or 1,2,3'
        )
    asked = dict(zip(("datasets", "trainers", "shots", "seeds"), names, strict=False))
    options = {"--cfg": arguments.cfg, "--backbones": arguments.backbones, "--targets": arguments.targets}
    for axis, text in (*asked.items(), *((flag, text) for flag, text in options.items() if text is not None)):
        if not words_of(text):
            raise UserError(f"{axis}: {text!r} names none; leave it out, or name one")
    axes: dict[str, Any] = read_grid_file(arguments.grid) if arguments.grid else {}
    axes |= {axis: words_of(text) for axis, text in asked.items()}
    for axis, text in (("cfgs", arguments.cfg), ("backbones", arguments.backbones), ("targets", arguments.targets)):
        axes |= {axis: words_of(text)} if text else {}
    axes |= {"setting": arguments.setting} if arguments.setting else {}
    axes |= {key: [value] for key, value in as_pairs(pairs)}
    axes.setdefault("seeds", words_of(environment_defaults()["seeds"]))
    return make_grid(axes, arguments.data, arguments.out)


def words_of(text: str) -> list[str]:
    """The words of a list, separated by blanks or commas."""
    return text.replace(",", " ").split()
