"""Where workers run, and what is shown of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from xcoop.sweep.display import Display, clock_time, first_line, summary
from xcoop.sweep.jobs import FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.sweep.slots import MEMORY, Slot, make_slots
from xcoop.utils.console import UserError

SLOT = Slot("CPU 0")


@pytest.fixture(autouse=True)
def _no_threads_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def environment(slots: list[Slot], key: str) -> list[str]:
    return [slot.environment[key] for slot in slots]


def test_one_worker_a_gpu_with_its_share_of_the_cores() -> None:
    slots = make_slots(gpus=["2", "GPU-5f"], cores=16)
    assert environment(slots, "CUDA_VISIBLE_DEVICES") == ["2", "GPU-5f"]
    assert environment(slots, "OMP_NUM_THREADS") == ["8", "8"]


def test_more_workers_than_gpus_share_them_in_turn() -> None:
    slots = make_slots(3, ["0", "1"], cores=4)
    assert environment(slots, "CUDA_VISIBLE_DEVICES") == ["0", "1", "0"]
    assert environment(slots, "OMP_NUM_THREADS") == ["1", "1", "1"]
    assert len({slot.name for slot in slots}) == 3
    assert len(set(slots)) == 3


@pytest.mark.parametrize(
    ("cores", "memory", "count"), [(4, 100 * MEMORY, 4), (16, 5 * MEMORY, 5), (8, 0, 1)], ids=["cores", "memory", "one"]
)
def test_workers_on_a_cpu(cores: int, memory: int, count: int) -> None:
    slots = make_slots(gpus=(), cores=cores, memory=memory)
    assert len(slots) == count
    assert environment(slots, "OMP_NUM_THREADS") == [str(max(1, cores // count))] * count
    assert environment(slots, "CUDA_VISIBLE_DEVICES") == [""] * count


def test_fewer_threads_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment(make_slots(1, (), cores=16), "MKL_NUM_THREADS") == ["2"]


def test_no_more_workers_than_runs() -> None:
    slots = make_slots(gpus=(), cores=8, memory=100 * MEMORY, most=2)
    assert environment(slots, "OMP_NUM_THREADS") == ["4", "4"]
    assert len(make_slots(4, gpus=["0", "1"], cores=8, most=0)) == 1


def test_no_workers_are_an_error() -> None:
    with pytest.raises(UserError, match="--workers must be at least 1, not 0"):
        make_slots(0)


def job(name: str, group: str = "g") -> Job:
    return Job((), Path("out/data/T/cfg", name), name, group)


def test_time_left_goes_by_what_is_finished() -> None:
    now = [0.0]
    display = Display(5, workers=2, terminal=False, clock=lambda: now[0])
    assert display.state() == "0 of 5 done, 0 running, 0 failed, ? left"
    for name in "ab":
        display.started(job(name), SLOT)
    display.ended(job("a"), Outcome(FINISHED, seconds=10.0))
    display.at(job("b"), 0.5)
    # Three wait, and half of one is left: 3.5 runs of 10 s on two workers.
    assert display.state() == "1 of 5 done, 1 running, 0 failed, 18 s left"
    display.ended(job("b"), Outcome(FAILED, message="why"))
    display.ended(job("c"), Outcome(FOUND))
    assert display.state() == "2 of 5 done (1 before), 0 running, 1 failed, 10 s left"


def test_plain_lines_come_at_most_every_quarter_of_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    display = Display(5, workers=1, terminal=False, clock=lambda: now[0])
    for second in range(46):
        now[0] = float(second)
        display.tick()
    assert capsys.readouterr().out.count("0 of 5 done") == 3


def test_summary() -> None:
    jobs = [job("a"), job("b")]
    ends = {jobs[0].folder: Outcome(FINISHED), jobs[1].folder: Outcome(FAILED, message="\nbad weather\nmore")}
    assert summary(jobs, ends, 65.0, "out") == [
        "",
        "1 runs finished, 1 failed, in 1 min 5 s.",
        "FAILED b: bad weather",
        "Results: xcoop table data --out out",
        "All of them, with curves and comparisons: xcoop results out",
    ]


def test_words() -> None:
    assert [clock_time(seconds) for seconds in (None, 59.4, 60, 7500)] == ["?", "59 s", "1 min 0 s", "2 h 5 min"]
    assert first_line("\n  a\nb") == "a"
    assert first_line("") == "(it said nothing)"
