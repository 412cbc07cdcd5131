"""Elicits a concept bank from a language model: asks, asks again where an answer is of no use, counts, and writes.

Nothing that was answered is asked twice: answers lie in a file beside the bank, and an interrupted run goes on there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from xcoop.concepts.elicit_answers import AnswerError, read_answer
from xcoop.concepts.elicit_client import ElicitError, NoAnswer, Reply, utc_now
from xcoop.concepts.elicit_store import Store, Stored

LONGEST_WAIT = 120.0  # seconds; a server that asks for more is left alone
FIRST_WAIT = 1.0


class Asked(Protocol):
    """What can be asked."""

    def ask(self, prompt: str) -> Reply:
        """The answer to a prompt; `NoAnswer` if there was none this time."""


@dataclass
class Tally:
    """What happened: requests, and faults by kind; samples of which classes remained without findings."""

    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    given_up: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)


@dataclass(frozen=True)
class Patience:
    """How often a query is tried again, and how waiting is done."""

    retries: int = 4
    sleep: Callable[[float], None] = time.sleep

    def wait(self, attempt: int, asked: float | None) -> None:
        """Waits before the next try: as long as the server asks, else 1, 2, 4, ... seconds.

        Raises:
            ElicitError: the server asks for more than is reasonable.
        """
        if asked is not None and asked > LONGEST_WAIT:
            raise ElicitError(
                f"the server asks to wait {asked:.0f} s; what was answered is kept, --resume goes on later"
            )
        self.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) if asked is None else asked)


def ask_all(client: Asked, store: Store, samples: int, patience: Patience, tally: Tally | None = None) -> Tally:
    """Asks for every class so often, but for what the store has already.

    Args:
        client: who is asked.
        store: knows the query; gets each raw answer, of use or not.
        samples: usable answers wanted of each class.
        patience: how often, and how slowly, is tried again.
        tally: what is counted in.

    Returns:
        What happened.

    Raises:
        ElicitError: the server refuses, or gave no answer at all to as many tries as are allowed.
    """
    tally = tally if tally is not None else Tally()
    for sample in range(1, samples + 1):
        for batch in store.query.batches():
            _complete(client, store, sample, batch, patience, tally)
    return tally


def _complete(client: Asked, store: Store, sample: int, batch: Sequence[str], patience: Patience, tally: Tally) -> None:
    """Asks until each class of a batch has findings in this sample, or patience ends."""
    silent = 0
    for attempt in range(patience.retries + 1):
        done = findings(store, sample)
        missing = tuple(name for name in batch if name not in done)
        if not missing:
            return
        tally.requests += 1
        wait = None
        try:
            reply = client.ask(store.query.prompt(missing))
        except NoAnswer as fault:
            tally.faults[fault.kind] += 1
            silent, wait = silent + 1, fault.wait
        else:
            store.add(Stored(sample, missing, reply.text, reply.finish, reply.served, utc_now()))
            if _judge(reply.text, missing, tally):
                return
        if attempt < patience.retries:
            patience.wait(attempt, wait)
    if silent == patience.retries + 1:
        raise ElicitError(_silence(store, silent, tally))
    done = findings(store, sample)
    if rest := tuple(name for name in batch if name not in done):
        tally.given_up.append((sample, rest))


def _judge(text: str, classes: Sequence[str], tally: Tally) -> bool:
    """Whether an answer has findings for all classes; its faults are counted."""
    try:
        answer = read_answer(text, classes)
    except AnswerError as fault:
        tally.faults[str(fault)] += 1
        return False
    tally.faults.update(answer.remarks)
    return len(answer.findings) == len(classes)


def findings(store: Store, sample: int) -> dict[str, list[str]]:
    """Per class the findings of one sample; of several answers the first that is of use counts."""
    found: dict[str, list[str]] = {}
    for stored in store.answers:
        if stored.sample == sample:
            try:
                answer = read_answer(stored.text, stored.classes)
            except AnswerError:
                continue
            found = answer.findings | found
    return found


def _silence(store: Store, tries: int, tally: Tally) -> str:
    kinds = ", ".join(f"{count}x {kind}" for kind, count in tally.faults.most_common())
    return (
        f"{store.query.host} gave no answer to {tries} tries in a row ({kinds}); no bank is written. "
        f"{len(store.answers)} answers are kept in {store.path}: --resume goes on from there"
    )
