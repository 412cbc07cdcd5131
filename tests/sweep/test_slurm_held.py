"""`--slurm --dry-run` says which runs the queue has, and changes nothing; `squeue` is a script of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from quick_runs import make_job

from xcoop.cli import main
from xcoop.sweep import slurm
from xcoop.sweep.jobs import Job
from xcoop.sweep.launch import NOTES
from xcoop.sweep.slurm_held import Held, held
from xcoop.sweep.slurm_launcher import QUEUED, RUNNING
from xcoop.sweep.slurm_ledger import Ledger, Status, write_status
from xcoop.sweep.slurm_queue import Entry

Squeue = Callable[[str], None]


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squeue:
    """Sets what `squeue` does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "require_slurm", lambda: None)

    def does(script: str) -> None:
        path = folder / "squeue"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return does


def test_each_run_is_with_the_task_that_has_it_last(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, f"run{number}") for number in range(6)]
    ledger = Ledger(tmp_path / "slurm")
    lost = ledger.confirm(ledger.announce(1, [[jobs[4]], [jobs[3]]]), "9")
    first = ledger.confirm(ledger.announce(1, [jobs[:2], [jobs[2]], [jobs[3]]]), "10")
    alone = ledger.announce(2, [[jobs[5]]])  # its launcher died before it could write the id down
    write_status(ledger.status_path(first, 0), Status(str(jobs[1].folder), {}, 1, "node7"))
    tasks = {0: Entry("10", "RUNNING"), 1: Entry("10", "PENDING", "Priority"), 2: Entry("10", "COMPLETING")}
    queue = {first.name: tasks, alone.name: {0: Entry("12", "PENDING")}}
    asked: list[set[str]] = []
    found = held(jobs, ledger.folder, lambda names: asked.append(names) or queue)  # type: ignore[func-returns-value]
    assert asked == [{lost.name, first.name, alone.name}]
    assert found == {
        jobs[0]: Held(QUEUED, "10", "Slurm job 10_0 runs others before it"),
        jobs[1]: Held(RUNNING, "10", "Slurm job 10_0 on node7"),
        jobs[2]: Held(QUEUED, "10", "Slurm job 10_1 waits: Priority"),
        jobs[3]: Held(QUEUED, "10", "Slurm job 10_2 runs others before it"),
        jobs[5]: Held(QUEUED, "12", "Slurm job 12 waits: PENDING"),
    }


COMMAND = ("sweep", "phantom", "CoOp", "1", "1 2 3", "--dry-run")


def submitted(out: Path) -> str:
    """Two of three runs stand in the ledger; the name of the job."""
    ledger = Ledger(out / NOTES / "slurm")
    folder = out.absolute() / "phantom" / "CoOp" / "phantom_1shots"
    jobs = [Job((), folder / f"seed{seed}", f"seed{seed}", "g") for seed in (1, 2)]
    made = ledger.confirm(ledger.announce(1, [[job] for job in jobs]), "47")
    write_status(ledger.status_path(made, 0), Status(str(jobs[0].folder), {}, 1, "node7"))
    return made.name


def test_a_dry_run_tells_and_leaves_everything(
    squeue: Squeue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    name = submitted(out)
    squeue(f'[ "$3" = --name={name} ] && printf "47_0|RUNNING|{name}|None\\n47_1|PENDING|{name}|Resources\\n"')
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
    squeue: Squeue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue("exit 1")  # is not asked
    assert main([*COMMAND, "--out", str(tmp_path / "out"), "--slurm"]) == 0
    assert "3 runs: 0 done, 3 to do." in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_while_slurm_is_down(squeue: Squeue, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(tmp_path)
    squeue("echo nobody there >&2; exit 1")
    assert main([*COMMAND, "--out", str(tmp_path), "--slurm"]) == 2
    assert "Slurm does not answer: squeue: nobody there" in capsys.readouterr().err
