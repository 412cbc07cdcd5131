"""A launcher in a process of its own: slurm_launch.py OUT COUNT STEPS SECONDS; prints one line for each run."""

from __future__ import annotations

import sys
from pathlib import Path

import quick_runs

from xcoop.sweep.slurm import Options, run_on_slurm

if __name__ == "__main__":
    out, count, steps, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    jobs = [quick_runs.make_job(out, f"run{number}", steps, seconds) for number in range(count)]
    options = Options(runs_per_task=2, minutes=5, gpus=0, cpus=1)
    for folder, outcome in run_on_slurm(jobs, out / ".sweep" / "slurm", options, run=quick_runs.run).items():
        sys.stdout.write(f"{folder.name} {outcome.state}\n")
