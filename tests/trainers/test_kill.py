"""kill -9 at random moments of runs: what is on disk is whole, and the rerun ends in the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_lose_nothing(kills: int, pictures: Path, tiny_weights_file: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    driver = [sys.executable, str(here / "kill_driver.py"), *map(str, (pictures, tiny_weights_file, tmp_path, kills))]
    path = os.pathsep.join(filter(None, (str(here.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    epochs = json.loads(done.stdout.splitlines()[-1])["epochs"]
    assert len(epochs) == kills
    assert len([epoch for epoch in epochs if 0 < epoch < 15]) >= kills // 5, epochs  # some hit the training itself
