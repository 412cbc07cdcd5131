"""`xcoop run`: all seeds of a method on a dataset, and the table."""

from __future__ import annotations

import argparse
import time

from xcoop.runs.plan import make_plans
from xcoop.utils.console import FAILED as EXIT_FAILED
from xcoop.utils.console import environment_defaults, numbers, say, to_paste

SKIP = "where images, a concept bank or weights lack, run what needs none of them (default: run nothing)"

EPILOG = """\
examples:
  xcoop run phantom 16                      XCoOp on the phantom, 16 shots, seeds 1 2 3
  xcoop run phantom 16 all                  every method, zero-shot included
  xcoop run derm7pt 16 CoOp vit_b16         CoOp with ViT-B/16 on Derm7pt
  SEEDS="1 2 3 4 5" xcoop run phantom 4 XCoOp phantom TRAINER.XCOOP.N_CTX 8

environment (the options win): DATA, OUT, SEEDS.
A finished seed is skipped, an interrupted one goes on, and nothing finished is overwritten. Runs with overrides go
into folders of their own. Runs share processes, one a GPU or one for each group of cores, and what they load; seeds
of a method that passes a frozen text tower at each step are trained side by side, all prompts in one pass. What fails
is tried once more, alone, in a fresh process. Exit code 1: a seed failed (the others were run all the same).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop run`."""
    defaults = environment_defaults()
    parser.usage = "xcoop run <dataset> <shots> [trainer|all] [cfg] [KEY VALUE ...] [--data D] [--out O] [--seeds S]"
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words",
        nargs="+",
        metavar="<dataset> <shots> ...",
        help="dataset and cfg are short names (see `xcoop list`) or YAML files; trainer defaults to XCoOp, cfg to "
        "phantom for the dataset phantom and to vit_b16 otherwise",
    )
    parser.add_argument("--data", default=defaults["data"], help="the data root (default: $DATA, else data)")
    parser.add_argument("--out", default=defaults["out"], help="the output root (default: $OUT, else output)")
    parser.add_argument("--seeds", default=defaults["seeds"], help='default: $SEEDS, else "1 2 3"')
    parser.add_argument("--skip-missing", action="store_true", help=SKIP)
    parser.add_argument("--one-by-one", action="store_true", help="train no runs side by side")


def run(arguments: argparse.Namespace) -> int:
    """Runs it; the exit code is 0 if every run is finished at the end.

    Raises:
        UserError: a name, key or value is wrong, or a finished run has other settings; or images, concept bank or
            weights are not there, or cannot be read. Nothing was started then.
        ValueError: the record of a finished run is damaged.
    """
    seeds = numbers(arguments.seeds, "SEEDS")
    plans = make_plans(arguments.words, arguments.data, arguments.out, seeds)

    from xcoop.results.benchmark import collect
    from xcoop.results.table import render
    from xcoop.sweep.job import FAILED, training
    from xcoop.sweep.launcher import Launcher, make_slots
    from xcoop.sweep.ready import require_ready

    start = time.monotonic()
    jobs = [training(plan, seed, plan.title(seed)) for plan in plans for seed in plan.seeds]
    todo = [job for job in jobs if not job.done()]
    stopped = set(todo) - set(todo := require_ready(todo, arguments.skip_missing))
    jobs = [job for job in jobs if job not in stopped]
    ends = Launcher(jobs, make_slots(most=len(todo)), arguments.out, True, arguments.one_by_one).run()

    folder, shots = plans[0].dataset_folder, int(arguments.words[1])
    given = " ".join(map(str, seeds))
    usual = environment_defaults()["seeds"].replace(",", " ").split() == given.split()
    table = to_paste("xcoop", "table", folder.name, str(shots), "--out", plans[0].out)
    results = to_paste("xcoop", "results", arguments.out, *([] if usual else ["--seeds", given]))
    minutes, rest = divmod(round(time.monotonic() - start), 60)
    say(
        "",
        render(collect(folder, shots, seeds), folder.name),
        f"Logs, predictions and checkpoints: {folder}",
        f"This table as markdown, LaTeX, CSV or JSON: {table} --format ...",
        f"Tables, curves and comparisons of everything below {plans[0].out}: {results}",
        f"{len(todo)} run{'' if len(todo) == 1 else 's'} in {minutes} min {rest} s.",
    )
    return EXIT_FAILED if any(end.state == FAILED for end in ends.values()) else 0
