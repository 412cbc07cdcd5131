"""What a launcher submits, and when: against a queue that the test writes itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from quick_runs import make_job, write_result

from xcoop.results.folder import locked
from xcoop.sweep.job import DONE, FAILED, RUNNING, Job, Outcome
from xcoop.sweep.slurm import ELSEWHERE, NEW, QUEUED, Entry, Queue, QueueError, SlurmLauncher, State, chunks
from xcoop.sweep.slurm_task import Ledger, Submission, read_status, write_status
from xcoop.utils.console import UserError

Tasks = Sequence[Sequence[Job]]


class Cluster:
    """A queue: what is submitted waits in it until the test does something."""

    def __init__(self) -> None:
        self.queue: Queue = {}
        self.submissions: list[Submission] = []
        self.causes: dict[str, str] = {}
        self.down = False

    def submit(self, submission: Submission, tasks: Tasks) -> str:
        number = str(100 + len(self.submissions))
        self.submissions.append(submission)
        self.queue[submission.name] = {i: Entry(number, "PENDING") for i in range(len(submission.tasks))}
        return number

    def look(self, names: set[str]) -> Queue:
        if self.down:
            raise QueueError("squeue: nobody there")
        return {name: dict(tasks) for name, tasks in self.queue.items() if name in names}

    def run(self, submission: Submission, index: int = 0, state: str = "RUNNING", reason: str = "") -> None:
        self.queue[submission.name][index] = Entry(self.queue[submission.name][index].job, state, reason)

    def end(self, submission: Submission, index: int = 0) -> None:
        del self.queue[submission.name][index]

    def titles(self) -> list[list[list[str]]]:
        return [[[Path(run).name for run in task] for task in one.tasks] for one in self.submissions]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def launcher(out: Path, cluster: Cluster, jobs: Sequence[Job], size: int = 2, grace: float = 0) -> SlurmLauncher:
    def why(task: str) -> str:
        return cluster.causes.get(task, "NODE_FAIL")

    return SlurmLauncher(jobs, Ledger(out / "slurm"), cluster.submit, size, cluster.look, why, grace)


def some(out: Path, count: int) -> list[Job]:
    return [make_job(out, f"run{number}") for number in range(count)]


def states(one: SlurmLauncher) -> list[str]:
    return [state.name for state in one.look().states.values()]


def at(out: Path, submission: Submission, job: Job, index: int = 0, **ends: Outcome) -> None:
    """Writes what a task would tell: that it is at a job, and how others ended (by title)."""
    folders = {str(job.folder.with_name(title)): end for title, end in ends.items()}
    write_status(Ledger(out / "slurm").status_path(submission, index), current=str(job.folder), ends=folders, node="n")


def test_from_nothing_to_done(tmp_path: Path, cluster: Cluster) -> None:
    jobs = some(tmp_path, 3)
    write_result(jobs[1].folder, "x")
    one = launcher(tmp_path, cluster, jobs)
    assert states(one) == [QUEUED, DONE, QUEUED]
    assert cluster.titles() == [[["run0", "run2"]]]
    assert one.found == {jobs[1]}
    cluster.run(cluster.submissions[0])
    assert states(one) == [QUEUED, DONE, QUEUED]  # the task has started, and has not said at what it is
    at(tmp_path, cluster.submissions[0], jobs[0])
    assert states(one) == [RUNNING, DONE, QUEUED]
    cluster.run(cluster.submissions[0], state="PENDING", reason="BeginTime")  # requeued
    assert states(one) == [QUEUED, DONE, QUEUED]
    write_result(jobs[0].folder, "x")
    write_result(jobs[2].folder, "x")
    cluster.end(cluster.submissions[0])
    assert states(one) == [DONE, DONE, DONE]
    assert len(cluster.submissions) == 1


def test_a_second_launcher_attaches(tmp_path: Path, cluster: Cluster) -> None:
    launcher(tmp_path, cluster, some(tmp_path, 2)).look()
    two = launcher(tmp_path, cluster, some(tmp_path, 3), size=1)  # one run more than before
    assert states(two) == [QUEUED, QUEUED, QUEUED]
    assert cluster.titles() == [[["run0", "run1"]], [["run2"]]]
    assert two.look().ids == {"100", "101"}


def test_launchers_at_once_submit_each_run_once(tmp_path: Path, cluster: Cluster) -> None:
    def slowly(submission: Submission, tasks: Tasks) -> str:
        time.sleep(0.3)
        return cluster.submit(submission, tasks)

    several = [launcher(tmp_path, cluster, some(tmp_path, 4)) for _ in range(4)]
    for one in several:
        one.submit = slowly
    threads = [threading.Thread(target=one.look) for one in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cluster.titles() == [[["run0", "run1"], ["run2", "run3"]]]


@pytest.mark.parametrize("reached", [False, True], ids=["before sbatch", "after sbatch"])
def test_launcher_that_died_while_submitting(tmp_path: Path, cluster: Cluster, reached: bool) -> None:
    def die(submission: Submission, tasks: Tasks) -> str:
        if reached:
            cluster.submit(submission, tasks)
        raise KeyboardInterrupt

    one = launcher(tmp_path, cluster, some(tmp_path, 1))
    one.submit = die
    with pytest.raises(KeyboardInterrupt):
        one.look()
    two = launcher(tmp_path, cluster, some(tmp_path, 1))
    assert states(two) == [QUEUED]
    assert len(cluster.submissions) == 1
    known = Ledger(tmp_path / "slurm").submissions()
    assert [submission.job for submission in known] == (["100"] if reached else [None, "100"])
    assert [submission.attempt for submission in known] == [1] * len(known)


def test_a_refused_submission_is_made_anew(tmp_path: Path, cluster: Cluster) -> None:
    def refuse(submission: Submission, tasks: Tasks) -> str:
        raise UserError("sbatch: error: invalid partition specified: gpus")

    one = launcher(tmp_path, cluster, some(tmp_path, 1))
    one.submit = refuse
    with pytest.raises(UserError, match="invalid partition"):
        one.look()
    two = launcher(tmp_path, cluster, some(tmp_path, 1))
    assert states(two) == [QUEUED]
    assert [submission.attempt for submission in cluster.submissions] == [1]


def test_lost_runs_get_one_task_more_each(tmp_path: Path, cluster: Cluster) -> None:
    jobs = some(tmp_path, 3)
    one = launcher(tmp_path, cluster, jobs, size=3)
    one.look()
    first = cluster.submissions[0]
    write_result(jobs[0].folder, "x")
    at(tmp_path, first, jobs[1])  # and run2 has not had its turn
    cluster.end(first)
    assert states(one) == [DONE, QUEUED, QUEUED]
    assert cluster.titles()[1:] == [[["run2"]], [["run1"]]]
    assert [submission.attempt for submission in cluster.submissions] == [1, 1, 2]
    cluster.end(cluster.submissions[1])
    cluster.end(cluster.submissions[2])  # both before they said anything
    assert states(one) == [DONE, FAILED, QUEUED]
    cluster.end(cluster.submissions[3])
    tally = one.look()
    assert [state.name for state in tally.states.values()] == [DONE, FAILED, FAILED]
    assert "its task 102 ended without it (NODE_FAIL)" in tally.states[jobs[1]].message
    assert len(cluster.submissions) == 4
    assert states(launcher(tmp_path, cluster, jobs)) == [DONE, QUEUED, QUEUED]  # the user asked anew


def test_results_may_show_late(tmp_path: Path, cluster: Cluster) -> None:
    jobs = some(tmp_path, 1)
    one = launcher(tmp_path, cluster, jobs, grace=30)
    one.look()
    cluster.end(cluster.submissions[0])
    assert states(one) == [QUEUED]
    write_result(jobs[0].folder, "x")
    assert states(one) == [DONE]
    assert len(cluster.submissions) == 1


def test_cancelled_tasks_stay_cancelled(tmp_path: Path, cluster: Cluster) -> None:
    one = launcher(tmp_path, cluster, some(tmp_path, 2), size=1)
    one.look()
    cluster.causes = {"100_0": "CANCELLED", "100_1": "OUT_OF_MEMORY"}
    cluster.end(cluster.submissions[0], 0)
    cluster.end(cluster.submissions[0], 1)
    assert states(one) == [FAILED, QUEUED]
    assert cluster.titles()[1:] == [[["run1"]]]


def test_errors_of_a_run(tmp_path: Path, cluster: Cluster) -> None:
    jobs = some(tmp_path, 2)
    one = launcher(tmp_path, cluster, jobs)
    one.look()
    ends = {"run0": Outcome(FAILED, message="no such file", again=False), "run1": Outcome(FAILED, message="bad luck")}
    at(tmp_path, cluster.submissions[0], jobs[1], **ends)
    cluster.end(cluster.submissions[0])
    assert [(state.name, state.message) for state in one.look().states.values()] == [
        (FAILED, "no such file"),
        (QUEUED, ""),
    ]
    at(tmp_path, cluster.submissions[1], jobs[1], run1=ends["run1"])
    cluster.end(cluster.submissions[1])
    assert list(one.look().states.values()) == [State(FAILED, "no such file"), State(FAILED, "bad luck")]


def test_nothing_is_submitted_while_slurm_does_not_answer(tmp_path: Path, cluster: Cluster) -> None:
    one = launcher(tmp_path, cluster, some(tmp_path, 1))
    one.look()
    cluster.end(cluster.submissions[0])
    cluster.down = True
    with pytest.raises(QueueError):
        one.look()
    assert len(cluster.submissions) == 1


def test_runs_of_other_processes_are_left_to_them(tmp_path: Path, cluster: Cluster) -> None:
    jobs = some(tmp_path, 1)
    jobs[0].folder.mkdir()
    one = launcher(tmp_path, cluster, jobs)
    with locked(jobs[0].folder):
        assert states(one) == [ELSEWHERE]
    assert cluster.submissions == []
    assert states(one) == [QUEUED]


def test_evaluations_stay_with_their_training(tmp_path: Path, cluster: Cluster) -> None:
    base, other = make_job(tmp_path, "base"), make_job(tmp_path, "other")
    after = [make_job(tmp_path, name, after=base.folder) for name in ("new", "cross")]
    assert chunks([base, *after, other], 2) == [[base, *after], [other]]
    assert chunks([*after, other], 2) == [after[:1] + after[1:], [other]]
    one = launcher(tmp_path, cluster, [base, *after])
    one.look()
    at(tmp_path, cluster.submissions[0], after[0], base=Outcome(FAILED, message="broken", again=False))
    cluster.end(cluster.submissions[0])
    assert [state.message for state in one.look().states.values()] == [
        "broken", "the run that it builds on failed", "the run that it builds on failed",
    ]  # fmt: skip


def test_chunks_keep_groups_apart(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, f"{group}{i}", group=group) for i in range(3) for group in "ab"]
    assert [[job.title for job in task] for task in chunks(jobs, 2)] == [["a0", "a1"], ["a2"], ["b0", "b1"], ["b2"]]


def test_held_tasks_are_told(tmp_path: Path, cluster: Cluster) -> None:
    one = launcher(tmp_path, cluster, some(tmp_path, 1))
    one.look()
    cluster.run(cluster.submissions[0], state="PENDING", reason="launch failed requeued held")
    assert one.look().held == {"100"}


def test_damaged_notes_are_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (tmp_path / "0001.json").write_text('{"schema": 1, "name": "x"}')
    with pytest.raises(ValueError, match=r"0001\.json is no submission"):
        ledger.submissions()
    (tmp_path / "0001_0.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match=r"0001_0\.json is no status"):
        read_status(tmp_path / "0001_0.json")


def test_each_run_is_with_the_task_that_has_it_last(tmp_path: Path, cluster: Cluster) -> None:
    jobs = some(tmp_path, 6)
    ledger = Ledger(tmp_path / "slurm")
    ledger.write(replace(ledger.announce(1, [[jobs[4]], [jobs[3]]]), job="9"))
    first = ledger.write(replace(ledger.announce(1, [jobs[:2], [jobs[2]], [jobs[3]]]), job="10"))
    alone = ledger.announce(2, [[jobs[5]]])  # its launcher died before it could write the id down
    write_status(ledger.status_path(first, 0), current=str(jobs[1].folder), node="node7")
    tasks = {0: Entry("10", "RUNNING"), 1: Entry("10", "PENDING", "Priority"), 2: Entry("10", "COMPLETING")}
    cluster.queue = {first.name: tasks, alone.name: {0: Entry("12", "PENDING")}}
    tally = launcher(tmp_path, cluster, jobs).see()
    assert [(state.name, state.message) for state in tally.states.values()] == [
        (QUEUED, "Slurm job 10_0 runs others before it"),
        (RUNNING, "Slurm job 10_0 on node7"),
        (QUEUED, "Slurm job 10_1 waits: Priority"),
        (QUEUED, "Slurm job 10_2 runs others before it"),
        (NEW, ""),  # nobody has it
        (QUEUED, "Slurm job 12 waits: PENDING"),
    ]
    assert tally.ids == {"10", "12"}
    assert cluster.submissions == []
