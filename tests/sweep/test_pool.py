"""The pool with a fake worker: who runs what, what is retried, and what the summary says."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import fake_worker
import pytest

from xcoop.results.folder import locked
from xcoop.sweep.jobs import Job
from xcoop.sweep.journal import events
from xcoop.sweep.launch import NOTES, launch
from xcoop.sweep.slots import Slot, make_slots

FAKE = (sys.executable, fake_worker.__file__, "--serve")


def job(out: Path, name: str, what: str = "ok", ms: int = 5, group: str = "g", after: Path | None = None) -> Job:
    return Job((what, str(ms)), out / "data" / "T" / "cfg" / name, name, group, after)


def run(jobs: list[Job], out: Path, slots: list[Slot] | None = None, retries: int = 1) -> int:
    return launch(jobs, slots or make_slots(2, (), cores=2), str(out), FAKE, retries)


def starts(one: Job) -> list[str]:
    return fake_worker.starts(one.folder)


def test_all_are_run_once_and_found_the_next_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(tmp_path, f"run{number}") for number in range(8)]
    assert run(jobs, tmp_path) == 0
    assert "8 runs finished, 0 failed" in capsys.readouterr().out
    assert run(jobs, tmp_path) == 0
    assert "0 runs finished (8 more were finished before), 0 failed" in capsys.readouterr().out
    assert [len(starts(one)) for one in jobs] == [1] * 8
    assert len({starts(one)[0] for one in jobs}) <= 2  # processes
    assert not list((tmp_path / NOTES).glob("worker-*")), "the logs of workers that had nothing to say are gone"


@pytest.mark.parametrize("what", ["fail-once", "die-once"])
def test_what_fails_is_tried_once_more_in_a_fresh_process(what: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "good"), job(tmp_path, "bad", what), job(tmp_path, "other")]
    assert run(jobs, tmp_path, make_slots(1, (), cores=1)) == 0
    first, second = starts(jobs[1])
    assert first.split()[0] != second.split()[0]
    assert [len(starts(one)) for one in jobs] == [1, 2, 1]


def test_what_fails_twice_is_listed_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(tmp_path, "bad", "fail"), job(tmp_path, "dead", "die"), *(job(tmp_path, f"good{n}") for n in range(3))]
    (jobs[0].folder).mkdir(parents=True)
    jobs[0].log.write_text("a log")
    assert run(jobs, tmp_path) == 2
    told = capsys.readouterr().out
    assert "FAILED bad: planned failure of bad" in told
    assert f"log: {jobs[0].log}" in told
    assert "FAILED dead: its process ended: killed by SIGKILL (out of memory?)" in told
    assert "xcoop table data --out" in told
    assert [len(starts(one)) for one in jobs] == [2, 2, 1, 1, 1]


def test_what_the_user_must_change_is_not_tried_again(tmp_path: Path) -> None:
    wrong = job(tmp_path, "wrong", "user-error")
    assert run([wrong, job(tmp_path, "good")], tmp_path) == 1
    assert len(starts(wrong)) == 1


def test_each_gpu_has_a_worker_that_sees_it_alone(tmp_path: Path) -> None:
    slots = make_slots(gpus=["0", "1"], cores=4)
    jobs = [job(tmp_path, f"run{number}", ms=150) for number in range(6)]
    assert run(jobs, tmp_path, slots) == 0
    seen = {starts(one)[0] for one in jobs}  # process and GPU
    assert {entry.split()[1] for entry in seen} == {"0", "1"}
    assert len(seen) == 2


def test_a_group_stays_with_a_worker(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"{group}{number}", ms=100, group=group) for number in range(4) for group in "ab"]
    assert run(jobs, tmp_path) == 0
    for group in "ab":
        assert len({starts(one)[0] for one in jobs if one.group == group}) == 1


def test_an_evaluation_waits_for_its_training_and_fails_with_it(tmp_path: Path) -> None:
    training, broken = job(tmp_path, "training", ms=200), job(tmp_path, "broken", "user-error")
    after = [job(tmp_path, "new", group="h", after=training.folder), job(tmp_path, "newer", after=broken.folder)]
    assert run([*after, training, broken], tmp_path) == 2
    assert [len(starts(one)) for one in after] == [1, 0]
    times = [line["time"] for line in events(tmp_path / NOTES) if line["folder"] == str(training.folder)]
    assert len(times) == 2


def test_a_run_of_another_launcher_is_left_and_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcoop.sweep.pool.LOOK", 0.2)
    theirs, freed, ours = (job(tmp_path, name) for name in ("theirs", "freed", "ours"))
    for one in (theirs, freed):
        one.folder.mkdir(parents=True)
    holding = threading.Event()

    def hold() -> None:
        with locked(theirs.folder), locked(freed.folder):
            holding.set()
            while not ours.done():  # ours goes on meanwhile
                time.sleep(0.02)
            time.sleep(0.3)
            fake_worker.write_results(theirs.folder)  # one is finished there, the other given up

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    assert run([theirs, freed, ours], tmp_path) == 0
    thread.join()
    assert [len(starts(one)) for one in (theirs, freed, ours)] == [0, 1, 1]


def test_workers_that_do_not_start_end_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = (sys.executable, "-c", "import sys; sys.exit('xcoop: no such library')")
    jobs = [job(tmp_path, f"run{number}") for number in range(9)]
    assert launch(jobs, make_slots(1, (), cores=1), str(tmp_path), broken) == 9
    assert "no such library" in capsys.readouterr().out


def test_a_damaged_record_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, good = job(tmp_path, "damaged"), job(tmp_path, "good")
    damaged.folder.mkdir(parents=True)
    fake_worker.write_results(damaged.folder)
    (damaged.folder / "predictions.csv").write_text("changed\n")
    assert run([damaged, good], tmp_path) == 1
    assert "was changed after it was written" in capsys.readouterr().out
    assert not starts(damaged)
