"""The launcher with runs of milliseconds: who runs what, what is tried again, and what is lost with whom is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import quick_runs
import tiny_jobs
from quick_runs import events, expected, make_job, result, thirty

from xcoop.results.record import read_run
from xcoop.sweep import launcher
from xcoop.sweep.job import FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.sweep.launcher import MEMORY, NOTES, Display, Launcher, Slot, clock_time, first_line, make_slots, summary
from xcoop.sweep.worker import Progress
from xcoop.utils.console import UserError, to_paste

forks = pytest.mark.skipif(sys.platform != "linux", reason="there, workers are no forks")


def job(out: Path, name: str, trouble: str = "", ms: int = 5, **more: object) -> Job:
    return make_job(out / "data" / "T" / "cfg", name, 1, ms / 1000, trouble, **more)


def run(jobs: list[Job], out: Path, slots: list[Slot] | None = None) -> dict[str, Outcome]:
    """How each ended, by its title."""
    slots = slots or make_slots(2, (), cores=2)
    ends = Launcher(jobs, slots, str(out), run=quick_runs.run).run()
    return {one.title: ends[one.folder] for one in jobs}


def begun(one: Job) -> list[int]:
    """The processes that began a run."""
    return [int(str(event["pid"])) for event in events(one.folder, "begin")]


def test_all_are_run_once_and_found_the_next_time(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"run{number}") for number in range(8)]
    assert {end.state for end in run(jobs, tmp_path).values()} == {FINISHED}
    assert {end.state for end in run(jobs, tmp_path).values()} == {FOUND}
    assert [len(begun(one)) for one in jobs] == [1] * 8
    assert len({begun(one)[0] for one in jobs}) <= 2  # processes
    assert not (tmp_path / NOTES).exists(), "the logs of workers that had nothing to say are gone"


@pytest.mark.parametrize("trouble", ["transient", "die-once"])
def test_what_fails_is_tried_once_more_in_a_fresh_process(trouble: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "good"), job(tmp_path, "bad", trouble), job(tmp_path, "other")]
    assert {end.state for end in run(jobs, tmp_path, make_slots(1, (), cores=1)).values()} == {FINISHED}
    first, second = begun(jobs[1])
    assert first != second
    assert [len(begun(one)) for one in jobs] == [1, 2, 1]


def test_what_fails_twice_is_listed_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(tmp_path, "bad", "fail"), job(tmp_path, "dead", "die", 5), job(tmp_path, "wrong", "error")]
    jobs += [job(tmp_path, f"good{n}") for n in range(3)]
    ends = run(jobs, tmp_path)
    assert [end.state for end in ends.values()] == [FAILED] * 3 + [FINISHED] * 3
    assert ends["bad"].message == "bad luck of bad"
    assert ends["dead"].message == "its process ended: killed by SIGKILL (out of memory?) (its last words)"
    assert [len(begun(one)) for one in jobs] == [2, 2, 1, 1, 1, 1]  # what the user must change is not tried again
    told = capsys.readouterr().out
    assert told.count("failed, and is tried once more: ") == 2
    assert "wrong: FAILED: wrong from the start" in told


def test_each_gpu_has_a_worker_that_sees_it_alone(tmp_path: Path) -> None:
    """They are not forks: a process that has looked for GPUs cannot hand them on."""
    jobs = [job(tmp_path, f"run{number}", ms=1000) for number in range(4)]
    run(jobs, tmp_path, make_slots(gpus=["0", "1"], cores=4))
    seen = {(begun(one)[0], events(one.folder, "begin")[0]["gpu"]) for one in jobs}
    assert sorted(str(gpu) for _, gpu in seen) == ["0", "1"]


def test_a_group_stays_with_a_worker(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"{group}{number}", ms=300, group=group) for number in range(3) for group in "ab"]
    run(jobs, tmp_path)
    for group in "ab":
        assert len({begun(one)[0] for one in jobs if one.group == group}) == 1


def test_an_evaluation_waits_for_its_training_and_fails_with_it(tmp_path: Path) -> None:
    training, broken = job(tmp_path, "training", ms=100), job(tmp_path, "broken", "error")
    after = [job(tmp_path, "new", group="h", after=training.folder), job(tmp_path, "newer", after=broken.folder)]
    ends = run([*after, training, broken], tmp_path)
    assert [end.state for end in ends.values()] == [FINISHED, FAILED, FINISHED, FAILED]
    assert "the run whose weights it evaluates failed" in ends["newer"].message
    assert not begun(after[1])
    assert events(training.folder, "end")[0]["time"] < events(after[0].folder, "begin")[0]["time"]  # type: ignore[operator]


HOLDER = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
import quick_runs
from xcoop.results.folder import locked
theirs, freed, ours = map(Path, sys.argv[1:])
with locked(theirs), locked(freed):
    print("holding", flush=True)
    while not (ours / "results.json").is_file():  # ours goes on meanwhile
        time.sleep(0.02)
    quick_runs.write_result(theirs, "x")  # one is finished there, the other given up
"""


def test_a_run_of_another_launcher_is_left_and_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LOOK", 0.1)
    jobs = [job(tmp_path, name) for name in ("theirs", "freed", "ours")]
    for one in jobs:
        one.folder.mkdir(parents=True)
    here = dict(os.environ, PYTHONPATH=str(Path(__file__).parent))
    command = [sys.executable, "-c", HOLDER, *(str(one.folder) for one in jobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=here) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        ends = run(jobs, tmp_path)
    assert [end.state for end in ends.values()] == [FOUND, FINISHED, FINISHED]
    assert [len(begun(one)) for one in jobs] == [0, 1, 1]


def test_a_damaged_record_fails_alone(tmp_path: Path) -> None:
    damaged, good = job(tmp_path, "damaged"), job(tmp_path, "good")
    quick_runs.write_result(damaged.folder, "x")
    (damaged.folder / "predictions.csv").write_text("changed\n")
    ends = run([damaged, good], tmp_path)
    assert [end.state for end in ends.values()] == [FAILED, FINISHED]
    assert "was changed after it was written" in ends["damaged"].message
    assert not begun(damaged)


# Launchers and workers that are killed.


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a launcher of the 30 runs; what still lives at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, quick_runs.__file__, str(tmp_path)]
        # A shell starts what runs in its background with Ctrl-C ignored, and that is inherited.
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_interruptible))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def ended(out: Path) -> list[str]:
    """The names of the runs that came to their end, once for each time."""
    return [path.parent.name for path in out.glob("data/T/cfg/*/events") for _ in events(path.parent, "end")]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def workers(out: Path) -> list[int]:
    return [pid for one in thirty(out) for pid in begun(one)]


def check(out: Path) -> None:
    """Each good run was finished exactly once, as if nothing had happened."""
    good = [one for one in thirty(out) if one.words[2] not in ("fail", "die")]
    assert Counter(ended(out)) == {one.title: 1 for one in good}
    assert all(result(one.folder) == expected(one.title, 2) for one in good)


@forks
def test_two_killed_launchers_lose_nothing(start: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    for goal in (6, 15):
        killed = start()
        until(lambda goal=goal: len(ended(tmp_path)) >= goal)
        killed.kill()
        killed.wait()
        until(lambda: not alive(workers(tmp_path)), 20)  # the workers do not outlive it for long
    last = start()
    told, _ = last.communicate(timeout=60)
    assert last.returncode == 1
    assert told.count(": FAILED: ") == 2
    check(tmp_path)
    # Two failures that repeat (at most twice a launcher), two that do not, and two kills with two workers each.
    assert 30 + 2 + 2 <= len(workers(tmp_path)) <= 30 + 2 + 2 * 5 + 4


@forks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launcher_ends_its_workers(
    number: int, start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    interrupted = start()
    until(lambda: len(ended(tmp_path)) >= 2)
    interrupted.send_signal(number)
    told, _ = interrupted.communicate(timeout=30)
    assert interrupted.returncode == 130
    assert "Interrupted. The same command goes on where this one stopped." in told
    assert not alive(workers(tmp_path))


@forks
def test_a_killed_worker_costs_one_try_and_two_launchers_share_the_runs(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    launchers = [start(), start()]
    until(lambda: len(ended(tmp_path)) >= 2)
    os.kill(alive(workers(tmp_path))[0], signal.SIGKILL)
    for one in launchers:
        told, _ = one.communicate(timeout=60)
        assert told.count(": FAILED: ") == 2, told
    check(tmp_path)


@forks
@pytest.mark.usefixtures("tiny_environment")
def test_real_runs_end_with_their_launcher_and_go_on(tiny_data: Path, tiny_weights_file: Path, tmp_path: Path) -> None:
    words = [sys.executable, tiny_jobs.__file__, "launch", *map(str, (tiny_data, tiny_weights_file, tmp_path))]
    jobs = tiny_jobs.three(tiny_data, tiny_weights_file, tmp_path)
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    until(lambda: any(jobs[0].folder.glob("*/model*")), 120)  # it is in the middle of a run
    killed.kill()
    killed.wait()
    pid = int((jobs[0].folder / ".lock").read_text().split()[1])
    until(lambda: not alive([pid]), 30)
    last = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert [read_run(one.folder) is None for one in jobs] == [False, True, False], last.stderr
    assert "Found checkpoint" in jobs[0].log.read_text()  # it went on
    assert len(list(jobs[0].folder.glob("log.txt*"))) == 2
    assert len(list(jobs[1].folder.glob("log.txt*"))) >= 2  # it was tried once more


# Where workers run.


@pytest.fixture
def _no_threads_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def environment(slots: list[Slot], key: str) -> list[str]:
    return [slot.environment[key] for slot in slots]


@pytest.mark.usefixtures("_no_threads_asked")
@pytest.mark.parametrize(
    ("asked", "gpus", "threads"),
    [
        ({"gpus": ["2", "GPU-5f"], "cores": 16}, ["2", "GPU-5f"], "8"),
        ({"workers": 3, "gpus": ["0", "1"], "cores": 4}, ["0", "1", "0"], "1"),
        ({"gpus": (), "cores": 4, "memory": 100 * MEMORY}, [""] * 4, "1"),
        ({"gpus": (), "cores": 16, "memory": 5 * MEMORY}, [""] * 5, "3"),
        ({"gpus": (), "cores": 8, "memory": 0}, [""], "8"),
        ({"gpus": (), "cores": 8, "memory": 100 * MEMORY, "most": 2}, [""] * 2, "4"),
        ({"workers": 4, "gpus": ["0", "1"], "cores": 8, "most": 0}, ["0"], "8"),
    ],
)
def test_slots(asked: dict[str, object], gpus: list[str], threads: str) -> None:
    slots = make_slots(**asked)  # type: ignore[arg-type]
    assert environment(slots, "CUDA_VISIBLE_DEVICES") == gpus
    assert environment(slots, "OMP_NUM_THREADS") == [threads] * len(gpus)
    assert len({slot.name for slot in slots}) == len(set(slots)) == len(gpus)


def test_fewer_threads_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment(make_slots(1, (), cores=16), "MKL_NUM_THREADS") == ["2"]
    with pytest.raises(UserError, match="--workers must be at least 1, not 0"):
        make_slots(0)


# What is shown.


def named(name: str) -> Job:
    return Job((), Path("out/data/T/cfg", name), name, "g")


def test_time_left_goes_by_what_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    display = Display(5, workers=2, terminal=False, clock=lambda: now[0])
    assert display.state() == "0 of 5 done, 0 running, 0 failed, ? left"
    for name in "ab":
        display.started(named(name))
    display.ended(named("a"), Outcome(FINISHED, seconds=10.0))
    display.at(named("b"), Progress(0.5, "half"))
    # Three wait, and half of one is left: 3.5 runs of 10 s on two workers.
    assert display.state() == "1 of 5 done, 1 running, 0 failed, 18 s left"
    display.ended(named("b"), Outcome(FAILED, message="why"))
    display.ended(named("c"), Outcome(FOUND))
    assert display.state() == "2 of 5 done (1 before), 0 running, 1 failed, 10 s left"
    for second in range(46):  # plain lines come at most every quarter of a minute
        now[0] = float(second)
        display.tick()
    assert capsys.readouterr().out.count("2 of 5 done") == 3


def test_each_run_is_told_and_a_log_is_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    display = Display(2, workers=1, each=True, terminal=False, clock=lambda: now[0])
    display.started(named("a"))
    for second in range(31):
        now[0] = float(second)
        display.at(named("a"), Progress(second / 40, f"epoch {second} of 40"))
        display.tick()
    display.ended(named("a"), Outcome(FAILED, message="no data\n  looked here"))
    display.ended(named("b"), Outcome(FAILED, message="no data\n  looked here"))
    assert capsys.readouterr().out.splitlines() == [
        "a: started",
        "a: epoch 15 of 40",
        "a: epoch 30 of 40",
        "a: FAILED",
        "    no data",
        "      looked here",
        "b: FAILED",
        "    (the same error)",
    ]


def test_a_bar_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    display = Display(2, workers=1, each=True, terminal=True)
    display.started(named("a"))
    display.at(named("a"), Progress(0.5, "epoch 1 of 2"))
    display.tick()
    display.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "0 of 2 done, 1 running, 0 failed, ? left; epoch 1 of 2" in err


def test_summary() -> None:
    jobs = [named("a"), named("b")]
    ends = {jobs[0].folder: Outcome(FINISHED), jobs[1].folder: Outcome(FAILED, message="\nbad weather\nmore")}
    assert summary(jobs, ends, 65.0, "out") == [
        "",
        "1 runs finished, 1 failed, in 1 min 5 s.",
        "FAILED b: bad weather",
        f"Results: {to_paste('xcoop', 'table', 'data', '--out', 'out')}",
        f"All of them, with curves and comparisons: {to_paste('xcoop', 'results', 'out')}",
    ]
    assert [clock_time(seconds) for seconds in (None, 59.4, 60, 7500)] == ["?", "59 s", "1 min 0 s", "2 h 5 min"]
    assert first_line("\n  a\nb") == "a"
    assert first_line("") == "(it said nothing)"
