"""Kills training runs at random moments, and finishes them; see `test_kill.py`.

A programme of its own: it imports everything once and forks each run, which then takes a fraction of a second.
Usage: kill_driver.py DATA WEIGHTS FOLDER KILLS. Prints one JSON line.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import tiny_run
import torch
from yacs.config import CfgNode

EPOCHS = 15
DATA, WEIGHTS, FOLDER = (Path(word) for word in sys.argv[1:4])


def config(run: str) -> CfgNode:
    pairs = ("OPTIM.MAX_EPOCH", EPOCHS, "FEATURES.DIR", str(FOLDER / run / "cache"))
    return tiny_run.config("CoOp", DATA, WEIGHTS, FOLDER / run, *pairs)


def start(run: str) -> int:
    """Trains in a child process; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                tiny_run.trained(config(run))
            code = 0
        finally:
            os._exit(code)
    return pid


def finish(run: str) -> torch.Tensor:
    """Trains, or goes on, to the end; the contexts."""
    _, status = os.waitpid(start(run), 0)
    assert status == 0, f"{run} failed"
    assert (FOLDER / run / "results.json").is_file()
    return context(FOLDER / run / "prompt_learner" / f"model.pth.tar-{EPOCHS}")


def context(path: Path) -> torch.Tensor:
    content = torch.load(path, weights_only=True)
    ctx: torch.Tensor = content["state_dict"]["ctx"]
    return ctx


def check(folder: Path) -> int:
    """Whatever a kill left is whole; how many epochs are safe."""
    for path in folder.glob("prompt_learner/model*"):
        context(path)
    pointer = folder / "prompt_learner" / "checkpoint"
    if not pointer.exists():
        return 0
    path = pointer.with_name(pointer.read_text().strip())
    return int(torch.load(path, weights_only=True)["epoch"])


def main(kills: int) -> None:
    # What every run imports, once. Nothing here runs a backward pass: its threads would not survive the forks.
    tiny_run.build(config("imports"))
    importlib.import_module("torch.utils.tensorboard")
    importlib.import_module("xcoop.results.record")
    moments = random.Random(int(os.environ.get("KILL_SEED", "0")))
    began = time.perf_counter()
    whole = finish("whole")
    usual = time.perf_counter() - began
    epochs: list[int] = []
    for number in itertools.count():
        run = f"run{number}"
        for _ in range(min(4, kills - len(epochs))):
            if not killed(run, moments.uniform(0, usual)):
                break  # it was faster
            epochs.append(check(FOLDER / run))
        assert torch.equal(finish(run), whole), f"{run}, killed after epochs {epochs[-4:]}, ended elsewhere"
        if len(epochs) == kills:
            break
    sys.stdout.write(json.dumps({"epochs": epochs, "seconds": usual}) + "\n")


def killed(run: str, after: float) -> bool:
    """Starts a run, or goes on with it, and kills it after so many seconds; False if it had ended by then."""
    pid = start(run)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    main(int(sys.argv[4]))
