"""Launchers and workers that are killed: what was done stays done, what was in flight goes on, nobody stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_worker
import pytest
import tiny_jobs

from xcoop.results.record import read_run
from xcoop.sweep.jobs import Job, write_jobs
from xcoop.sweep.journal import events
from xcoop.sweep.launch import NOTES

HERE = Path(__file__).parent
BAD = {3: "fail", 11: "die", 20: "fail-once", 25: "die-once"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a launcher of the 30 runs; what still lives at the end is killed."""
    write_jobs(tmp_path / "jobs.json", sweep(tmp_path))
    command = [sys.executable, HERE / "launcher.py", tmp_path / "jobs.json", tmp_path, "2", sys.executable]
    started = []

    def begin() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [*map(str, command), fake_worker.__file__, "--serve"],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=interruptible,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def interruptible() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def sweep(out: Path) -> list[Job]:
    names = {number: BAD.get(number, "ok") for number in range(30)}
    return [Job((what, "60"), out / "data/T/cfg" / f"seed{n}", f"run {n}", "g") for n, what in names.items()]


def journal(out: Path) -> list[dict[str, str]]:
    return list(events(out / NOTES)) if (out / NOTES).is_dir() else []


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def finished(out: Path) -> int:
    return sum(event["event"] == "finished" for event in journal(out))


def alive(out: Path) -> list[int]:
    """Workers that noted something and still live."""
    return [pid for pid in {int(event["pid"]) for event in journal(out)} if Path(f"/proc/{pid}/stat").is_file()
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
def test_two_killed_launchers_lose_nothing(start: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    for goal in (6, 15):
        launcher = start()
        until(lambda goal=goal: finished(tmp_path) >= goal)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        until(lambda: not alive(tmp_path), 20)  # the workers do not outlive it for long
    last = start()
    told, _ = last.communicate(timeout=120)
    assert last.returncode == 1
    assert "2 failed" in told
    counts = Counter(event["folder"] for event in journal(tmp_path) if event["event"] == "finished")
    good = [job for job in sweep(tmp_path) if job.words[0] in ("ok", "fail-once", "die-once")]
    assert counts == {str(job.folder): 1 for job in good}, "each good run was finished exactly once"
    assert all(read_run(job.folder) for job in good)
    started = sum(event["event"] == "started" for event in journal(tmp_path))
    # Two failures that repeat (at most twice a launcher), two that do not, and two kills with two workers each.
    assert 30 + 2 + 2 <= started <= 30 + 2 + 2 * 5 + 4


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launcher_ends_its_workers(
    number: int, start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    launcher = start()
    until(lambda: finished(tmp_path) >= 2)
    launcher.send_signal(number)
    told, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 130
    assert "Interrupted. The same command goes on where this one stopped." in told
    assert not alive(tmp_path)


def test_a_killed_worker_costs_one_try(start: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    launcher = start()
    until(lambda: finished(tmp_path) >= 2)
    os.kill(int(journal(tmp_path)[-1]["pid"]), signal.SIGKILL)
    told, _ = launcher.communicate(timeout=120)
    assert "2 failed" in told
    assert finished(tmp_path) == 28


def test_two_launchers_share_the_runs(start: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    launchers = [start(), start()]
    for launcher in launchers:
        told, _ = launcher.communicate(timeout=120)
        assert "2 failed" in told
    counts = Counter(event["folder"] for event in journal(tmp_path) if event["event"] == "finished")
    assert set(counts.values()) == {1}
    assert len(counts) == 28


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "journal-here.jsonl").write_text(json.dumps({"event": "started"}) + '\n{"event": "fin')
    assert list(events(tmp_path)) == [{"event": "started"}]


@pytest.mark.skipif(sys.platform != "linux", reason="there, workers are no forks")
@pytest.mark.usefixtures("tiny_environment")
def test_forked_workers_end_with_their_launcher_and_are_replaced(
    tiny_data: Path, tiny_weights_file: Path, tmp_path: Path
) -> None:
    jobs = []
    for number in range(5):
        folder, epochs = tmp_path / "data/T/cfg" / str(number), 150 if number < 2 else 10
        pairs = ("OPTIM.MAX_EPOCH", epochs, "OPTIM.LR", 1e30 if number == 3 else 0.01, "TRAIN.CHECKPOINT_FREQ", 10)
        jobs.append(tiny_jobs.job("CoOp", tiny_data, tiny_weights_file, folder, *pairs))
    write_jobs(tmp_path / "jobs.json", jobs)
    words = [*map(str, (sys.executable, HERE / "launcher.py", tmp_path / "jobs.json", tmp_path, 2))]
    launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    until(lambda: all(any(job.folder.glob("*/model*")) for job in jobs[:2]), 120)  # both are in the middle of a run
    launcher.kill()
    launcher.wait()
    until(lambda: not alive(tmp_path), 30)
    last = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert "4 runs finished, 1 failed" in last.stdout, last.stderr
    tries = Counter(event["folder"] for event in journal(tmp_path) if event["event"] == "started")
    assert tries == {str(job.folder): 2 if number in (0, 1, 3) else 1 for number, job in enumerate(jobs)}
    assert "Found checkpoint" in jobs[0].log.read_text()  # it went on


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_environment")
def test_real_runs_survive_two_killed_launchers(tiny_data: Path, tiny_weights_file: Path, tmp_path: Path) -> None:
    """Thirty trainings of the tiny dataset, two of which diverge; launchers are killed in the middle of others.

    The workers are forks of the launcher.
    """
    lr = {4: 1e30, 17: 1e30}
    jobs = []
    for number in range(30):
        pairs = ("OPTIM.MAX_EPOCH", 10, "SEED", number, "OPTIM.LR", lr.get(number, 0.01))
        folder, trainer = tmp_path / "data/T/cfg" / str(number), ("CoOp", "XCoOp", "CoCoOp")[number % 3]
        jobs.append(tiny_jobs.job(trainer, tiny_data, tiny_weights_file, folder, *pairs))
    write_jobs(tmp_path / "jobs.json", jobs)
    words = [*map(str, (sys.executable, HERE / "launcher.py", tmp_path / "jobs.json", tmp_path, 2))]
    for goal in (5, 14):
        launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        until(lambda goal=goal: finished(tmp_path) >= goal, 300)
        launcher.kill()
        launcher.wait()
        until(lambda: not alive(tmp_path), 30)
    last = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert last.returncode == 1, last.stderr
    assert "2 failed" in last.stdout
    counts = Counter(event["folder"] for event in journal(tmp_path) if event["event"] == "finished")
    assert counts == {str(job.folder): 1 for number, job in enumerate(jobs) if number not in lr}
    assert all((read_run(job.folder) is None) == (number in lr) for number, job in enumerate(jobs))
