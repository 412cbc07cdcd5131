"""Hands jobs to workers until all are done; what fails is tried once more, in a fresh process."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xcoop.results.folder import busy
from xcoop.sweep.display import Display
from xcoop.sweep.hand import WORKER, Hand
from xcoop.sweep.jobs import BUSY, FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.sweep.slots import Slot

TICK = 0.2  # seconds between looks at everything
LOOK = 2.0  # seconds between looks at runs that other launchers are at
DEAD_ENDS = 3  # workers of a slot that may die, one after the other, before they are ready


class Pool:
    """Runs jobs.

    Args:
        jobs: all that is to be done; what is done is left alone.
        slots: where workers run.
        folder: of the journal and the workers' logs.
        display: is told what happens.
        retries: how often a failed job is tried again.
        program: what a worker is; None: a fork of this process.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        folder: Path,
        display: Display,
        retries: int = 1,
        program: Sequence[str] | None = WORKER,
    ) -> None:
        self.jobs, self.slots, self.folder, self.display = list(jobs), list(slots), folder, display
        self.retries, self.program = retries, program
        self.ends: dict[Path, Outcome] = {}  # by the run's folder
        self.failures: Counter[Path] = Counter()
        self.waiting = list(self.jobs)
        self.busy: list[Job] = []  # other launchers are at them
        self.hands: dict[Slot, Hand] = {}
        self._names = {job.folder for job in self.jobs}
        self._looked = time.monotonic()
        self._deaths: Counter[Slot] = Counter()

    def run(self) -> dict[Path, Outcome]:
        """Runs all; how each ended, by its folder."""
        try:
            self._leave_out_what_is_done()
            while len(self.ends) < len(self._names):
                self._hand_out()
                self._listen()
                self._look_at_busy()
                self.display.tick()
        finally:
            for hand in self.hands.values():
                hand.dismiss()
            for hand in self.hands.values():
                hand.wait()
        return self.ends

    def _leave_out_what_is_done(self) -> None:
        for job in list(self.waiting):
            try:
                done = job.done()
            except ValueError:  # a damaged record: the worker says so
                continue
            if done:
                self.waiting.remove(job)
                self._close(job, Outcome(FOUND))

    # Handing out.

    def _hand_out(self) -> None:
        """Gives a job to each worker that has none, and ends workers for which there is none."""
        for slot in self.slots:
            hand = self.hands.get(slot)
            if hand is not None and hand.job is not None:
                continue
            job = self._next(hand.group if hand else "")
            if job is None:
                if hand and not self.waiting and not self.busy:
                    self._retire(slot)
                continue
            if hand is None or (self.failures[job.folder] and hand.served):  # what failed gets a fresh process
                self._retire(slot)
                hand = self.hands[slot] = Hand(slot, self.folder, self.program)
            self.waiting.remove(job)
            hand.give(job)
            self.display.started(job, slot)

    def _next(self, group: str) -> Job | None:
        """The next job for a worker: of the group that it has loaded, else of one that no other worker is at."""
        self._give_up_orphans()
        ready = [job for job in self.waiting if job.after not in self._names or job.after in self.ends]
        if not ready:
            return None
        taken = {hand.group for hand in self.hands.values() if hand.job is not None}
        return min(ready, key=lambda job: (self.failures[job.folder], job.group != group, job.group in taken))

    def _give_up_orphans(self) -> None:
        """Evaluations of a training that failed."""
        for job in list(self.waiting):
            before = self.ends.get(job.after) if job.after else None
            if before is not None and before.state == FAILED:
                self.waiting.remove(job)
                self._close(job, Outcome(FAILED, message="the run whose weights it evaluates failed", again=False))

    def _retire(self, slot: Slot) -> None:
        if hand := self.hands.pop(slot, None):
            hand.dismiss()
            hand.wait()

    # Listening.

    def _listen(self) -> None:
        """Takes in what the workers say, and notices those that have died."""
        hands = list(self.hands.items())
        select.select([hand for _, hand in hands], [], [], TICK)
        for slot, hand in hands:
            end = hand.end()  # asked before the last events are read
            for event in list(hand.hear()):  # all, before one of them ends the worker
                self._take(slot, hand, event)
            if end is not None and self.hands.get(slot) is hand:
                self._mourn(slot, hand, f"its process ended: {end.reason}" + "".join(f" ({t})" for t in end.tail[-1:]))

    def _take(self, slot: Slot, hand: Hand, event: dict[str, Any]) -> None:
        job = hand.job
        if event["event"] == "ready":
            hand.ready = True
            self._deaths[slot] = 0
        elif event["event"] == "at" and job is not None:
            self.display.at(job, event["part"])
        elif event["event"] == "end" and job is not None:
            hand.job = None
            self._judge(job, Outcome(event["state"], event["seconds"], event["message"], event["again"]))
            if event["state"] == FAILED and event["again"]:  # whatever went wrong ends with the process
                self._retire(slot)

    def _mourn(self, slot: Slot, hand: Hand, message: str) -> None:
        """A worker has died, with or without a job. One that died before it was ready has not tried its job."""
        self._retire(slot)
        if hand.job is not None and hand.ready:
            self._judge(hand.job, Outcome(FAILED, time.monotonic() - hand.since, message))
        elif hand.job is not None:
            self.waiting.insert(0, hand.job)
            self.display.paused(hand.job)
        if not hand.ready:
            self._deaths[slot] += 1
        if self._deaths[slot] >= DEAD_ENDS:
            self._close_slot(slot, message)

    def _close_slot(self, slot: Slot, message: str) -> None:
        """Workers do not start here; without another slot the rest of the jobs has failed."""
        self.slots.remove(slot)
        if self.slots:
            return
        for job in [*self.waiting, *self.busy]:
            self._close(job, Outcome(FAILED, message=f"no worker starts; {message}"))
        self.waiting, self.busy = [], []

    def _judge(self, job: Job, outcome: Outcome) -> None:
        """Closes a job, or puts it back."""
        if outcome.state == BUSY:
            self.busy.append(job)
            self.display.paused(job)
        elif outcome.state == FAILED and outcome.again and self.failures[job.folder] < self.retries:
            self.failures[job.folder] += 1
            self.waiting.append(job)
            self.display.again(job, outcome)
        else:
            self._close(job, outcome)

    def _close(self, job: Job, outcome: Outcome) -> None:
        self.ends[job.folder] = outcome
        self.display.ended(job, outcome)

    def _look_at_busy(self) -> None:
        """Runs of other launchers: done by now, or free again?"""
        if not self.busy or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for job in list(self.busy):
            if not busy(job.folder):
                self.busy.remove(job)
                self.waiting.append(job)  # the worker sees whether it is done


def succeeded(outcome: Outcome) -> bool:
    """Whether a run is done."""
    return outcome.state in (FINISHED, FOUND)
