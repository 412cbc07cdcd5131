"""A launcher of its own process, to be killed: `launcher.py JOBS.json OUT WORKERS [PROGRAM...]`.

Without a programme its workers are forks, which know the tiny dataset.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from xcoop.sweep.jobs import read_jobs
from xcoop.sweep.launch import launch
from xcoop.sweep.slots import make_slots
from xcoop.utils.console import guarded

if __name__ == "__main__":
    jobs, out, workers, *program = sys.argv[1:]
    if not program:
        importlib.import_module("tiny_run")
    slots = make_slots(int(workers), (), cores=int(workers))
    sys.exit(guarded(lambda: min(1, launch(read_jobs(Path(jobs)), slots, out, program or None))))
