"""Sweeps on a real Slurm of two nodes: limits, requeues, killed tasks, killed launchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import quick_runs
import tiny_jobs
import torch
from quick_runs import HOLD, events, expected, make_job, result
from slurm_cluster import Cluster, NoClusterError, missing

from xcoop.sweep.job import DONE, FAILED, FINISHED, FOUND, Job, Run
from xcoop.sweep.slurm import SlurmDisplay, SlurmLauncher, State, in_queue, watch
from xcoop.sweep.slurm_task import Ledger, Options, submitter

HERE = Path(__file__).parent
OPTIONS = Options(runs_per_task=1, minutes=5, gpus=0, cpus=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        try:
            running = stack.enter_context(Cluster())
        except NoClusterError as error:
            pytest.skip(f"Slurm is installed, and does not start here: {error}")
        for name, value in running.environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield running


class Sweep:
    """A launcher in a thread, so that the test can do harm meanwhile."""

    def __init__(
        self, out: Path, jobs: Sequence[Job], options: Options = OPTIONS, run: Run | None = quick_runs.run
    ) -> None:
        self.ledger = Ledger(out / ".sweep" / "slurm")
        self.launcher = SlurmLauncher(
            jobs, self.ledger, submitter(self.ledger, options, run), options.runs_per_task, grace=1
        )
        self.states: dict[str, State] = {}
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        tally = watch(self.launcher, SlurmDisplay(1, terminal=False), pauses=(0.3, 0.3))
        self.states = {job.title: state for job, state in tally.states.items()}

    def end(self, seconds: float = 240) -> dict[str, State]:
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the sweep did not end"
        return self.states

    def job_id(self) -> str:
        return str(self.ledger.submissions()[0].job)


def wait(true: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)
    return found


def check_once(folder: Path, name: str, steps: int) -> None:
    """The run ended once, as if nothing had interrupted it, and did no step twice."""
    assert result(folder / name) == expected(name, steps)
    assert len(events(folder / name, "end")) == 1
    assert [event["number"] for event in events(folder / name, "step")] == list(range(1, steps + 1))


def test_array_keeps_its_limit_and_runs_everything_once(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, f"run{number}", 4, 0.1) for number in range(7)]
    options = Options(runs_per_task=2, parallelism=2, minutes=5, gpus=1, cpus=2)
    sweep = Sweep(tmp_path, jobs, options)
    wait(sweep.ledger.submissions)
    most = 0
    while sweep.thread.is_alive():
        most = max(most, cluster.run("squeue", "--noheader", "--array", "--states=RUNNING").count("xcoop"))
        time.sleep(0.05)
    assert set(sweep.end().values()) == {State(DONE)}
    assert most == 2
    (submission,) = sweep.ledger.submissions()
    assert [len(task) for task in submission.tasks] == [2, 2, 2, 1]
    for number in range(7):
        check_once(tmp_path, f"run{number}", 4)


def test_interrupted_tasks_go_on_where_they_were(cluster: Cluster, tmp_path: Path) -> None:
    """One is requeued by Slurm, one gives way to a notice, one is killed; a forked child answers no notice."""
    names = ["requeued", "noticed", "killed"]
    jobs = [make_job(tmp_path, name, 6, 0.05, "hold fork" if name == "noticed" else "hold") for name in names]
    sweep = Sweep(tmp_path, jobs)
    wait(lambda: all(len(events(tmp_path / name, "step")) == HOLD for name in names))
    cluster.run("scontrol", "requeue", f"{sweep.job_id()}_0")
    cluster.run("scancel", "--signal=USR2", f"{sweep.job_id()}_1")
    os.kill(int(str(events(tmp_path / "killed", "begin")[0]["pid"])), signal.SIGKILL)
    assert set(sweep.end().values()) == {State(DONE)}
    for name in names:
        check_once(tmp_path, name, 6)
        assert len(events(tmp_path / name, "begin")) == 2
    first, second = sweep.ledger.submissions()
    assert second.tasks == ((str(tmp_path / "killed"),),)
    assert (first.attempt, second.attempt) == (1, 2)
    assert [sweep.ledger.status(first, index).starts for index in range(3)] == [2, 2, 1]
    log = (sweep.ledger.logs(first) / f"{first.job}_1_0_log.out").read_text()
    assert log.count("Calling checkpoint method") == 1


def test_killed_twice_is_listed_and_errors_are_not_repeated(cluster: Cluster, tmp_path: Path) -> None:
    troubles = {"wrong": "error", "unlucky": "transient", "deadly": "die", "good": ""}
    jobs = [make_job(tmp_path, name, 4, 0.05, trouble) for name, trouble in troubles.items()]
    states = Sweep(tmp_path, jobs, Options(runs_per_task=4, minutes=5, gpus=0, cpus=1)).end()
    assert states["good"] == State(DONE)
    assert states["deadly"].name == FAILED
    assert "ended without it" in states["deadly"].message
    assert states["wrong"] == State(FAILED, "wrong from the start")
    assert states["unlucky"] == State(DONE)
    assert [len(events(tmp_path / name, "begin")) for name in troubles] == [1, 2, 2, 1]


@pytest.mark.slow
def test_a_real_run_that_gives_way_ends_in_the_same_weights(
    cluster: Cluster, tiny_weights_file: Path, tmp_path: Path
) -> None:
    data, epochs = tiny_jobs.draw(tmp_path / "pictures"), 60
    weights = {}
    for name in ("interrupted", "whole"):
        job = tiny_jobs.job("CoOp", data, tiny_weights_file, tmp_path / name, "OPTIM.MAX_EPOCH", epochs)
        path = job.folder / "prompt_learner"
        if name == "whole":
            assert tiny_jobs.run(job).state == FINISHED
        else:
            sweep = Sweep(tmp_path, [job], run=tiny_jobs.run)
            wait(lambda path=path: (path / "model.pth.tar-5").exists())
            cluster.run("scancel", "--signal=USR2", sweep.job_id())
            assert sweep.end() == {job.title: State(DONE)}
            (submission,) = sweep.ledger.submissions()
            assert sweep.ledger.status(submission, 0).starts == 2
        weights[name] = torch.load(path / f"model.pth.tar-{epochs}", weights_only=True)["state_dict"]["ctx"]
        weights[name + " guesses"] = (job.folder / "predictions.csv").read_bytes()
    assert torch.equal(weights["interrupted"], weights["whole"])
    assert weights["interrupted guesses"] == weights["whole guesses"]


@pytest.mark.slow
def test_a_node_that_goes_down(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm requeues what was on it, and may hold it until somebody releases it; the launcher submits nothing."""
    job = make_job(tmp_path, "run", 6, 0.05, "hold")
    sweep = Sweep(tmp_path, [job])
    wait(lambda: len(events(job.folder, "step")) == HOLD)
    node = cluster.run("squeue", "--noheader", "--format=%N")
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    end = time.monotonic() + 120
    while sweep.thread.is_alive() and time.monotonic() < end:
        if "held" in cluster.run("squeue", "--noheader", "--format=%r"):
            cluster.run("scontrol", "release", sweep.job_id())
        time.sleep(0.5)
    cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # unless it is back by itself
    assert sweep.end(1) == {"run": State(DONE)}
    assert len(sweep.ledger.submissions()) == 1
    assert len(events(job.folder, "begin")) == 2
    check_once(tmp_path, "run", 6)


@pytest.mark.slow
def test_the_time_limit_ends_no_run(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm looks at limits twice a minute, and gives notice of a one-minute limit at its first look."""
    jobs = [make_job(tmp_path, f"run{number}", 6, 0.05, "" if number % 2 else "hold") for number in range(4)]
    sweep = Sweep(tmp_path, jobs, Options(runs_per_task=2, minutes=1, gpus=0, cpus=1))
    assert set(sweep.end(240).values()) == {State(DONE)}
    (submission,) = sweep.ledger.submissions()
    assert [sweep.ledger.status(submission, index).starts for index in range(2)] == [2, 2]
    for number in range(4):
        check_once(tmp_path, f"run{number}", 6)


def launch(out: Path, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "slurm_launch.py"), str(out), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_launchers_that_die_or_are_two_submit_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / ".sweep" / "slurm")
    launchers = [launch(tmp_path, 5, 10, 0.2) for _ in range(2)]
    wait(lambda: events(tmp_path / "run0", "step"))
    for one in launchers:
        one.kill()
        one.communicate()
    (submission,) = ledger.submissions()
    jobs = [make_job(tmp_path, f"run{number}") for number in range(6)]
    held, ids = in_queue(jobs, ledger.folder)
    assert held[jobs[0]] == State("running", f"Slurm job {submission.job}_0 on {ledger.status(submission, 0).node}")
    assert jobs[5] not in held  # nobody has it yet
    assert ids == submission.job
    again = launch(tmp_path, 6, 10, 0.2)  # one run more than before
    text, _ = again.communicate(timeout=240)
    assert again.returncode == 0
    ends = [line.split() for line in text.splitlines() if line.startswith("run")]
    assert [name for name, _ in ends] == [f"run{number}" for number in range(6)]
    assert {state for _, state in ends} <= {FINISHED, FOUND}
    first, second = ledger.submissions()
    assert [len(task) for task in first.tasks] == [2, 2, 1]
    assert second.tasks == ((str(tmp_path / "run5"),),)
    for number in range(6):
        check_once(tmp_path, f"run{number}", 10)
