"""Runs that are trained side by side: one of them goes at a time, and the prompts of all pass the text tower at once.

A step of prompt learning is a pass of the prompts through a frozen text tower, and little else. Runs that differ in
seed, shots or a setting need that pass on the same tower. Here each goes, in a thread of its own, until it wants the
features of its prompts, or the gradient of them; where all wait, one pass serves all.

A run needs to know nothing of the others: which goes when decides nothing, and what it may change in the process is
put back before it goes on. Nor do its numbers depend on them: no row of a matrix product does. That they are rounded
alike is up to who multiplies. On a CPU, MKL has another way for products of three rows or fewer, so what is done with
single rows, the projection of each prompt's end, each run does itself.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones import Backbone

GRACE = 10.0  # seconds that an interrupted run has to come to its next step


@dataclass(frozen=True)
class Forward:
    """Asks for what the text tower makes of the ends of prompts.

    Attributes:
        backbone: whose text tower is asked; those of all runs must hold the same weights.
        embeddings: (N, L, W), detached.
        end: (N,).
        dtype: of autocast; None: none.
    """

    backbone: Backbone
    embeddings: Tensor
    end: Tensor
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Pass:
    """A pass of the prompts of several runs: what went in, (M, L, W), and what came out, (M, V)."""

    embeddings: Tensor
    states: Tensor


@dataclass(frozen=True)
class Part:
    """The rows of one run in a pass."""

    whole: Pass
    rows: slice


@dataclass(frozen=True)
class Backward:
    """Asks for the gradient at the embeddings of one's part, given that at its states, (N, V)."""

    part: Part
    gradient: Tensor


class Seat:
    """The place of one run among those that are trained side by side.

    Args:
        work: the run.
        meeting: the others.
    """

    def __init__(self, work: Callable[[], None], meeting: Meeting) -> None:
        self.meeting, self.work = meeting, work
        self.go, self.ended = threading.Semaphore(0), False
        self.error: BaseException | None = None
        self.asked: list[Any] = []
        self.answers: list[Any] = []
        self._encoded: list[tuple[Tensor, Tensor, Part]] = []  # embeddings, states as the run has them, and which
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        _seat.set(self)
        self.go.acquire()
        try:
            self.meeting.start()
            if not self.meeting.stopped:
                self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self.meeting.back.release()

    def encode(self, backbone: Backbone, embeddings: Tensor, end: Tensor, dtype: torch.dtype | None) -> Tensor:
        """As `backbone.encode_embeddings`; gradients reach the embeddings by `backward` alone.

        Args:
            backbone: its text tower is frozen.
            embeddings: (N, L, W).
            end: (N,).
            dtype: of autocast; None: none.

        Returns:
            (N, D).
        """
        (part,) = self._ask(Forward(backbone, embeddings.detach(), end, dtype))
        states: Tensor = part.whole.states[part.rows].detach().requires_grad_()
        self._encoded.append((embeddings, states, part))
        return backbone.project_text(states)

    def backward(self, retain_graph: bool = False) -> None:
        """Hands the gradients that have come to the states on to the embeddings, and to what those were made of.

        Args:
            retain_graph: whether they may be handed on once more.
        """
        due = [one for one in self._encoded if one[1].grad is not None]
        gradients = self._ask(*(Backward(part, states.grad) for _, states, part in due if states.grad is not None))
        for (embeddings, states, _), gradient in zip(due, gradients, strict=True):
            states.grad = None
            embeddings.backward(gradient, retain_graph=retain_graph)
        if not retain_graph:
            self._encoded.clear()

    def _ask(self, *asked: Any) -> list[Any]:
        """Lets the others go on until all wait for an answer; ours.

        Raises:
            KeyboardInterrupt: all are to end.
        """
        if not asked:
            return []
        self.asked = list(asked)
        if all(seat.ended or seat is self for seat in self.meeting.seats):
            answer([self])
            return self._taken()
        put_back = self.meeting.state()
        self.meeting.back.release()
        self.go.acquire()
        put_back()
        if self.meeting.stopped:
            raise KeyboardInterrupt
        return self._taken()

    def _taken(self) -> list[Any]:
        """The answers, which are not held here any longer: they hold all that a pass keeps for its gradients."""
        answers, self.asked, self.answers = self.answers, [], []
        return answers


class Meeting:
    """Runs works side by side, each in a thread of its own, and only one at a time.

    Args:
        works: the runs; none raises anything.
        state: notes what a run may change in the process; what it gives puts it back.
    """

    def __init__(self, works: Sequence[Callable[[], None]], state: Callable[[], Callable[[], None]]) -> None:
        self.state, self.start, self.stopped = state, state(), False
        self.back = threading.Semaphore(0)
        self.going: Seat | None = None
        self.seats = [Seat(work, self) for work in works]

    def run(self) -> None:
        """Runs all to their ends.

        Raises:
            KeyboardInterrupt: it came; each run that is left gets it at its next step, and some seconds to end.
            BaseException: whatever a run raised, after all have ended.
        """
        for seat in self.seats:
            seat.thread.start()
        try:
            while waiting := [seat for seat in self.seats if not seat.ended]:
                for seat in waiting:
                    self._let_go(seat)
                answer([seat for seat in waiting if not seat.ended])
        except BaseException:
            self.stopped = True
            if self.going:
                self.back.acquire(timeout=GRACE)
            for seat in self.seats:
                if not seat.ended:
                    self._let_go(seat)
            raise
        finally:
            self.start()
        for seat in self.seats:
            if seat.error:
                raise seat.error

    def _let_go(self, seat: Seat) -> None:
        """Until it asks or ends."""
        self.going = seat
        seat.go.release()
        self.back.acquire(timeout=GRACE if self.stopped else None)
        if seat.ended:
            seat.thread.join()  # nothing is left for it to do but to be gone
        self.going = None


def answer(seats: Sequence[Seat]) -> None:
    """Answers what runs have asked: forward passes of prompts of one form as one, and backward passes of one pass."""
    forward: defaultdict[Any, list[tuple[Seat, int, Forward]]] = defaultdict(list)
    backward: defaultdict[int, list[tuple[Seat, int, Backward]]] = defaultdict(list)
    for seat in seats:
        seat.answers = [None] * len(seat.asked)
        for number, asked in enumerate(seat.asked):
            if isinstance(asked, Backward):
                backward[id(asked.part.whole)].append((seat, number, asked))
            else:
                form = (asked.embeddings.shape[1:], asked.embeddings.dtype, asked.embeddings.device, asked.dtype)
                forward[form].append((seat, number, asked))
    for group in forward.values():
        for (seat, number, _), part in zip(group, _forward([asked for *_, asked in group]), strict=True):
            seat.answers[number] = part
    for gradients in backward.values():
        for (seat, number, _), gradient in zip(gradients, _backward([asked for *_, asked in gradients]), strict=True):
            seat.answers[number] = gradient


def _forward(asked: Sequence[Forward]) -> list[Part]:
    embeddings = torch.cat([one.embeddings for one in asked]).requires_grad_()
    first = asked[0]
    with torch.enable_grad(), torch.autocast(embeddings.device.type, first.dtype, enabled=first.dtype is not None):
        states = first.backbone.end_states(embeddings, torch.cat([one.end for one in asked]))
    whole, parts, start = Pass(embeddings, states), [], 0
    for one in asked:
        parts.append(Part(whole, slice(start, start + len(one.end))))
        start += len(one.end)
    return parts


def _backward(asked: Sequence[Backward]) -> list[Tensor]:
    whole = asked[0].part.whole
    gradient = torch.zeros_like(whole.states)
    for one in asked:
        gradient[one.part.rows] = one.gradient
    # A method may ask twice, for the gradients of two losses: the graph stays until the last run forgets the pass.
    (found,) = torch.autograd.grad(whole.states, whole.embeddings, gradient, retain_graph=True)
    return [found[one.part.rows] for one in asked]


_seat: ContextVar[Seat | None] = ContextVar("seat", default=None)


def current() -> Seat | None:
    """The seat of the run that this code belongs to; None if it is trained alone."""
    return _seat.get()
