"""Tasks, the reading of Slurm's answers, the options, `--dry-run`, and what is said if something is missing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick_runs
from quick_runs import events, make_job

from xcoop.cli import main, parse
from xcoop.commands import sweep
from xcoop.sweep import slurm
from xcoop.sweep.job import FAILED, FINISHED, Job, Outcome
from xcoop.sweep.launcher import NOTES
from xcoop.sweep.slurm import (
    QUEUED,
    Entry,
    QueueError,
    SlurmDisplay,
    SlurmLauncher,
    State,
    Tally,
    largest_array,
    last_state,
    queued,
    require_slurm,
)
from xcoop.sweep.slurm_task import MOST_FRUITLESS, Ledger, Options, Status, Task, read_status, submitter, write_status
from xcoop.utils.console import UserError

Program = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task changes `sys.path`, and registers what forked children do, in a process of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: None)


# Tasks.


def test_task_runs_what_is_left_and_tells(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, name, 2, 0, trouble) for name, trouble in (("a", ""), ("b", "error"), ("c", ""))]
    path = tmp_path / "slurm" / "0001_0.json"
    Task(quick_runs.run)(path, jobs)
    status = read_status(path)
    assert [status.ends[str(job.folder)].state for job in jobs] == [FINISHED, FAILED, FINISHED]
    assert (status.current, status.starts) == (None, 1)
    Task(quick_runs.run)(path, jobs)  # requeued by Slurm itself, without a word
    assert read_status(path).starts == 2
    assert [len(events(job.folder, "begin")) for job in jobs] == [1, 1, 1]


def test_checkpoint_gives_what_is_left(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, name, 2, 0, trouble) for name, trouble in (("a", ""), ("b", "error"), ("c", ""))]
    path = tmp_path / "slurm" / "0001_0.json"
    task = Task(quick_runs.run)
    task(path, jobs[:2])
    left = task.checkpoint(path, jobs)
    assert left is not None
    assert left.args == (path, [jobs[2]])
    assert left.function.fruitless == 0


def test_a_task_that_gets_nowhere_ends(tmp_path: Path) -> None:
    job, path = make_job(tmp_path, "a"), tmp_path / "slurm" / "0001_0.json"

    def interrupted(job: Job) -> Outcome:
        left = task.checkpoint(path, [job])
        followers.append(None if left is None else left.function)
        return Outcome(FAILED, message="SystemExit: -1")  # how an exception that ends the task looks from within a run

    followers: list[Any] = [Task(interrupted)]
    for _ in range(MOST_FRUITLESS):
        task = followers[-1]
        with pytest.raises(SystemExit):
            task(path, [job])
    assert [follower is None for follower in followers] == [False] * MOST_FRUITLESS + [True]
    end = read_status(path).ends[str(job.folder)]
    assert (end.state, end.again) == (FAILED, False)
    assert "--time" in end.message


def test_a_checkpoint_is_progress(tmp_path: Path) -> None:
    job, path = make_job(tmp_path, "a"), tmp_path / "slurm" / "0001_0.json"

    def interrupted(job: Job) -> Outcome:
        (job.folder / "weights").mkdir(parents=True)
        (job.folder / "weights" / "model.pth.tar-1").write_text("x")
        left = task.checkpoint(path, [job])
        assert left is not None
        assert left.function.fruitless == 0
        return Outcome(FAILED)

    task = Task(interrupted, fruitless=MOST_FRUITLESS - 1)
    with pytest.raises(SystemExit):
        task(path, [job])
    assert str(job.folder) not in read_status(path).ends  # it has not failed: it was interrupted


def test_status_round_trip(tmp_path: Path) -> None:
    ends = {"/y": Outcome(FAILED, 1.5, "ü", again=False)}
    write_status(tmp_path / "s.json", ends=ends, starts=3)
    write_status(tmp_path / "s.json", current="/x", node="node7")
    assert read_status(tmp_path / "s.json") == Status("/x", ends, 3, "node7")
    assert read_status(tmp_path / "none.json") == Status()


# Slurm's answers.


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """`program(name, script)` puts a shell script on the PATH, before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return make


def test_queue_is_read(program: Program) -> None:
    lines = "12_0|RUNNING|xcoop-a|None\n12_10|PENDING|xcoop-a|Priority\n13|COMPLETING|xcoop-b|None\n"
    program("squeue", f"printf '{lines}'")
    assert queued({"xcoop-a", "xcoop-b"}) == {
        "xcoop-a": {0: Entry("12", "RUNNING", "None"), 10: Entry("12", "PENDING", "Priority")},
        "xcoop-b": {0: Entry("13", "COMPLETING", "None")},
    }
    assert queued(set()) == {}
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(QueueError, match="Unable to contact"):
        queued({"xcoop-a"})


def test_why_a_task_ended(program: Program) -> None:
    program("sacct", "echo 'CANCELLED by 1000'")
    program("scontrol", "echo 'JobId=7 ArrayTaskId=2 JobState=NODE_FAIL Reason=None'")
    assert last_state("5_2") == "CANCELLED"
    program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert last_state("5_2") == "NODE_FAIL"
    program("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert last_state("5_2") == ""
    assert largest_array() == 1001
    program("scontrol", "echo 'MaxArraySize            = 64'")
    assert largest_array() == 64


# What is missing or wrong.


def test_missing_parts_are_named(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"missing: sbatch, squeue, scontrol, srun\. Run this on a login node"):
        require_slurm()


def asked(*words: str) -> argparse.Namespace:
    return parse("sweep", ["phantom", *words])


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    assert sweep.slurm_options(asked("--slurm")) == Options()
    words = ("--slurm", "--partition", "long", "--time", "90", "--gpus", "2", "--cpus", "8", "--runs-per-task", "3",
             "--array-parallelism", "5", "--slurm-option", "mem-per-cpu=4G", "--slurm-option", "exclusive")  # fmt: skip
    extra = (("mem_per_cpu", "4G"), ("exclusive", ""))
    assert sweep.slurm_options(asked(*words)) == Options("long", 5, 3, 90, 2, 8, extra)
    assert sweep.slurm_options(asked("--gpus", "0")) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm", "--time", "0"], "--time must be at least 1"),
        (["--slurm", "--gpus", "0,1"], "how many a task gets"),
        (["--slurm", "--slurm-option", "time=3"], "use --time"),
        (["--slurm", "--slurm-option", "array=0-3"], "--array-parallelism"),
        (["--slurm", "--slurm-option", "output=x"], "set by `xcoop sweep` itself"),
        (["--slurm", "--slurm-option", "=x"], "KEY=VALUE"),
        (["--slurm", "--workers", "2"], "--array-parallelism"),
        (["--partition", "long", "--detach"], "--detach, --partition is for a Slurm cluster"),
    ],
)
def test_wrong_options(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep.slurm_options(asked(*words))


def test_notice_fits_the_limit() -> None:
    assert [Options(minutes=minutes).notice for minutes in (1, 4, 8, 240)] == [15, 60, 120, 120]


def test_what_sbatch_is_told(tmp_path: Path, program: Program) -> None:
    """The script that submitit hands over; `sbatch` here only keeps it."""
    program("srun", "")
    program("scontrol", "echo 'MaxArraySize = 3'")
    program("sbatch", f'cat "$1" > {tmp_path}/script; echo "Submitted batch job 42"')
    ledger = Ledger(tmp_path / "a b")
    options = Options("long", 1, 2, 90, 2, 8, (("account", "lab"), ("signal", "USR2@300")))
    jobs = [make_job(tmp_path, name) for name in "abc"]

    def submit(jobs: list[Job], runs_per_task: int = 1) -> None:
        SlurmLauncher(jobs, ledger, submitter(ledger, options), runs_per_task, queue=lambda names: {}).look()

    submit(jobs[:2])
    (made,) = ledger.submissions()
    assert (made.job, made.task_id(1)) == ("42", "42_1")
    script = (tmp_path / "script").read_text()
    for line in ("account=lab", "array=0-1%1", "cpus-per-task=8", "gpus-per-node=2", "partition=long", "requeue",
                 "time=90", "signal=USR2@300", f"job-name={made.name}"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert script.count("signal") == 1
    assert "--cpus-per-task=8" in script.partition("\nsrun ")[2]
    with pytest.raises(UserError, match=r"3 runs need --runs-per-task 2 or more"):
        submit(jobs)
    program("sbatch", "echo 'sbatch: error: invalid partition specified: long' >&2; exit 1")
    with pytest.raises(UserError, match="invalid partition specified: long"):
        submit(jobs, runs_per_task=2)


def test_display_says_what_changed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_job(tmp_path, "one"), make_job(tmp_path, "two")
    display = SlurmDisplay(2, terminal=False)
    tally = Tally({one: State(QUEUED), two: State(FAILED, "too\nbad")}, held={"7"}, ids={"10", "7"})
    assert display.show(tally)
    assert not display.show(tally)
    display.trouble("down")
    display.trouble("down")
    display.leave()
    out = capsys.readouterr().out
    assert out.count("two: FAILED\n    too\n    bad\n") == 1
    assert out.count("1 queued, 0 running, 0 done, 1 failed (Slurm jobs: 7 10)\n") == 1
    assert out.count("scontrol release 7\n") == 1
    assert out.count("Slurm does not answer (down)") == 1
    assert out.endswith("scancel 7 10\n")


COMMAND = ("sweep", "phantom", "CoOp", "1", "1 2 3", "--dry-run")


# `--slurm --dry-run` says which runs the queue has, and changes nothing; `squeue` is a script of the test.


def submitted(out: Path) -> str:
    """Two of three runs stand in the ledger; the name of the job."""
    ledger = Ledger(out / NOTES / "slurm")
    folder = out.absolute() / "phantom" / "CoOp" / "phantom_1shots"
    jobs = [Job((), folder / f"seed{seed}", f"seed{seed}", "g") for seed in (1, 2)]
    made = ledger.write(replace(ledger.announce(1, [[job] for job in jobs]), job="47"))
    write_status(ledger.status_path(made, 0), current=str(jobs[0].folder), node="node7")
    return made.name


def test_a_dry_run_tells_and_leaves_everything(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    out = tmp_path / "out"
    name = submitted(out)
    program(
        "squeue", f'[ "$3" = --name={name} ] && printf "47_0|RUNNING|{name}|None\\n47_1|PENDING|{name}|Resources\\n"'
    )
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main([*COMMAND, "--out", str(out), "--slurm"]) == 0
    one, two, three, last = capsys.readouterr().out.splitlines()
    assert one.startswith("running  phantom: CoOp phantom, 1 shots, seed 1  ")
    assert one.endswith("seed1  (Slurm job 47_0 on node7)")
    assert two.startswith("queued   phantom")
    assert two.endswith("seed2  (Slurm job 47_1 waits: Resources)")
    assert three.startswith("to do    phantom")
    assert three.endswith("seed3")
    assert last.startswith("3 runs: 0 done, 2 in the queue (Slurm jobs: 47), 1 to do.")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert main([*COMMAND, "--out", str(out)]) == 0  # without --slurm nobody asks
    assert capsys.readouterr().out.count("to do  ") == 3


def test_a_dry_run_where_nothing_was_submitted(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    program("squeue", "exit 1")  # is not asked
    assert main([*COMMAND, "--out", str(tmp_path / "out"), "--slurm"]) == 0
    assert "3 runs: 0 done, 3 to do." in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_while_slurm_is_down(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)
    submitted(tmp_path)
    program("squeue", "echo nobody there >&2; exit 1")
    assert main([*COMMAND, "--out", str(tmp_path), "--slurm"]) == 2
    assert "Slurm does not answer: squeue: nobody there" in capsys.readouterr().err
