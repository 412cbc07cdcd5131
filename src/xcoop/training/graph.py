"""Steps of a training as one CUDA graph: what Python launches kernel by kernel is recorded once, and then replayed.

A step of prompt learning is a thousand short kernels, and Python takes far longer to launch them than a GPU to run
them. What is recorded is the very step that is taken otherwise (`xcoop.training.step`), from forward pass to update.
A recording is a list of kernels and the places in memory that they read and write. So all that changes from step to
step has a place: the batch is copied to where the recording reads it, and learning rates are tensors while it is made.
Whatever else Python decides is decided once, and to read a number on the host breaks a recording: a model says for
itself whether that happens in its steps (`PromptModel.uncaptured`).

Optimiser and schedule notice nothing: outside of a step their rates are plain numbers, and a checkpoint is that of any
run. The first steps of a training are plain, as one with another number of images is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from xcoop.backbones import ImageFeatures
from xcoop.training.step import Note, Step
from xcoop.utils.console import cut

logger = logging.getLogger(__name__)

WARM = 2  # plain steps before the one that a recording is compared with: kernels are chosen, optimisers have a state
# How far a replayed step may be from the plain one, as a share of what that changes, by what it computes in (None: fp32
# alone). It runs the same kernels, but for those of the update.
TOLERANCE = {None: 1e-3, torch.bfloat16: 2e-2}
LONGEST_REASON = 300  # characters: a device's errors come with pages of advice
SET = ("lr", "fused", "foreach", "capturable")  # of a group of an optimiser, while its update runs on the device

Inputs = tuple[Tensor, Tensor, Tensor]  # pooled features, local ones, labels
Work = Callable[[], Any]


class Recorder(Protocol):
    """What makes recordings on some device."""

    def warm(self, work: Work) -> Any:
        """Does the work as before a recording; what it gives."""

    def record(self, work: Work) -> Callable[[], None]:
        """Records the work, once; what replays it."""


class CudaRecorder:
    """CUDA graphs, and warming up, on a stream of their own.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def warm(self, work: Work) -> Any:
        """Does the work on that stream, in the order of the others."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            made = work()
        current.wait_stream(self.stream)
        return made

    def record(self, work: Work) -> Callable[[], None]:
        """Records the work; nothing is computed."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self.stream.device)  # a recording that fails does not put it back
        # Other threads (a loader that pins memory) may ask the device for what this one may not.
        with torch.cuda.stream(current), torch.cuda.graph(graph, None, self.stream, "thread_local"):
            work()
        return graph.replay


@dataclass(frozen=True)
class Recording:
    """A recorded step.

    Attributes:
        inputs: where it reads a batch.
        noted: names of what must be finite, and `shown` of what the log shows.
        numbers: where it writes these, in this order.
        gradients: of each trained parameter.
        places: of all that it updates; see `places`.
        replay: takes a step.
    """

    inputs: Inputs
    noted: list[str]
    shown: list[str]
    numbers: Tensor
    gradients: Sequence[tuple[Tensor, Tensor | None]]
    places: tuple[int, ...]
    replay: Callable[[], None]

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        """Whether it can read such a batch."""
        return all(
            own.shape == given.shape and own.dtype == given.dtype
            for own, given in zip(self.inputs, inputs, strict=True)
        )

    def take(self, inputs: Sequence[Tensor], note: Note) -> dict[str, Tensor]:
        """A step on a batch; what the log shows."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.replay()
        for parameter, gradient in self.gradients:  # a plain step may have been in between
            parameter.grad = gradient
        numbers = self.numbers.clone().unbind()  # the next step writes where these are
        for name, value in zip(self.noted, numbers, strict=False):
            note(name, value)
        return dict(zip(self.shown, numbers[len(self.noted) :], strict=True))


def steps_of(asked: bool, device: torch.device) -> Steps:
    """What takes the steps of a training: TRAIN.CUDA_GRAPH, and where it runs."""
    if asked and device.type != "cuda":
        logger.warning("TRAIN.CUDA_GRAPH: the steps of this run are plain: a graph needs a GPU")
    return Steps(CudaRecorder(device) if asked and device.type == "cuda" else None)


class Steps:
    """Takes the steps of one training, plainly or as a CUDA graph.

    Args:
        recorder: makes the graphs; None: all steps are plain.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self.recording: Recording | None = None
        self._rates: Rates | None = None
        self._warmed = 0

    def __call__(self, step: Step, features: ImageFeatures, labels: Tensor, note: Note) -> dict[str, Tensor]:
        """Takes one; arguments and result are those of the step itself."""
        if self.recorder is not None and self._rates is None and (why := why_plain(step)):
            self._give_up(why)
        if self.recorder is None:
            return step(features, labels, note)
        inputs = (features.pooled, features.patches, labels)
        self._rates = self._rates or Rates(step.optim, labels.device)
        with self._rates.on_device(step.optim):
            if self._warmed < WARM:
                self._warmed += 1
                shown: dict[str, Tensor] = self.recorder.warm(lambda: step(features, labels, note))
                return shown
            if self.recording is None or self.recording.places != places(step):
                return self._record(self.recorder, step, inputs, note)
            if not self.recording.fits(inputs):
                return step(features, labels, note)
            return self.recording.take(inputs, note)

    def _give_up(self, why: str) -> None:
        logger.warning("TRAIN.CUDA_GRAPH: the steps of this run are plain: %s", why)
        self.recorder = self.recording = None

    def _record(self, recorder: Recorder, step: Step, inputs: Inputs, note: Note) -> dict[str, Tensor]:
        """A plain step. The same is recorded and replayed from where that began, and is to come to where that did."""
        before, where = kept(step), places(step)
        shown = step(ImageFeatures(*inputs[:2]), inputs[2], note)
        if where != places(step):  # the optimiser has a state only now: the next step is recorded
            return shown
        after = kept(step)
        try:
            recording = recorded(recorder, step, inputs)
            put(step, before)
            again = recording.take(inputs, lambda *_: None)
        except RuntimeError as error:
            self._give_up(f"they cannot be recorded ({cut(' '.join(str(error).split()), LONGEST_REASON)})")
        else:
            tolerance = TOLERANCE[step.dtype]
            near = (again["loss"] - shown["loss"]).abs() <= tolerance * shown["loss"].abs().clamp(min=1)
            if bool(near & all_near(kept(step), after, before, tolerance)):
                self.recording = recording
                logger.info("steps of %d images are replayed as one CUDA graph", len(inputs[2]))
            else:
                self._give_up("a recorded one computes something else")
        finally:
            put(step, after)
        return shown


def why_plain(step: Step) -> str:
    """What keeps the steps of a training from being recorded; "" if nothing does."""
    model, kind = step.model, type(step.optim)
    if not model.image_tower_frozen:
        return "its image tower is trained"
    if model.uncaptured:
        return model.uncaptured
    if step.scaler.is_enabled():
        return "in fp16 a step that overflows is left out, which is decided on the host; PREC bf16, fp32 or auto"
    if model.seat is not None:
        return "runs that are trained side by side share passes of the text tower; --one-by-one has each by itself"
    if kind not in (SGD, Adam, AdamW):
        return f"{kind.__name__} reads its rate on the host; OPTIM.NAME sgd, adam, amsgrad or adamw"
    return ""


def recorded(recorder: Recorder, step: Step, inputs: Inputs) -> Recording:
    """The recording of a step on batches such as this one."""
    own = inputs[0].clone(), inputs[1].clone(), inputs[2].clone()
    noted: dict[str, Tensor] = {}
    made: list[tuple[list[str], Tensor]] = []

    def work() -> None:
        shown = step(ImageFeatures(*own[:2]), own[2], noted.__setitem__)
        numbers = torch.stack([number.detach().float() for number in (*noted.values(), *shown.values())])
        made.append((list(shown), numbers))

    for group in step.optim.param_groups:
        if "capturable" in group:  # Adam's, which is asked about it while a device records
            group["capturable"] = True
    replay = recorder.record(work)
    ((shown, numbers),) = made
    gradients = [(parameter, parameter.grad) for parameter in step.model.trained_parameters().values()]
    return Recording(own, list(noted), shown, numbers, gradients, places(step), replay)


class Rates:
    """Learning rates where an update on the device reads them.

    Args:
        optim: whose rates they are, one a group.
        device: where they lie.
    """

    def __init__(self, optim: Optimizer, device: torch.device) -> None:
        self.tensors = [torch.zeros((), device=device) for _ in optim.param_groups]
        self._filled = [0.0] * len(self.tensors)

    @contextmanager
    def on_device(self, optim: Optimizer) -> Iterator[None]:
        """Has the optimiser read its present rates, and count its steps, there; afterwards it is set as it was."""
        groups, own = optim.param_groups, list(enumerate(self.tensors))
        for index, tensor in own:
            rate = float(groups[index]["lr"])
            if rate != self._filled[index]:
                self._filled[index] = rate
                tensor.fill_(rate)
        for state in optim.state.values():
            if "step" in state:
                state["step"] = state["step"].to(self.tensors[0].device)
        plain = [{key: group[key] for key in SET if key in group} for group in groups]
        try:
            for index, tensor in own:
                groups[index].update(lr=tensor, fused=True, foreach=False)
            yield
        finally:
            for group, values in zip(groups, plain, strict=True):
                group.update(values)


def updated(step: Step) -> list[Tensor]:
    """All that a step updates: what is trained, and the optimiser's state of it."""
    state = step.optim.state
    parameters = [parameter for group in step.optim.param_groups for parameter in group["params"]]
    return [
        tensor
        for parameter in parameters
        for tensor in (parameter, *(state[parameter].values() if parameter in state else ()))
        if isinstance(tensor, Tensor)
    ]


def places(step: Step) -> tuple[int, ...]:
    """Where in memory that lies: once a checkpoint is loaded, for example, it may lie elsewhere."""
    return tuple(tensor.data_ptr() for tensor in updated(step))


def kept(step: Step) -> list[Tensor]:
    """Copies of all that a step updates."""
    return [tensor.detach().clone() for tensor in updated(step)]


@torch.no_grad()
def put(step: Step, values: Sequence[Tensor]) -> None:
    """Puts `kept` values back to where they were."""
    for tensor, value in zip(updated(step), values, strict=True):
        tensor.copy_(value)


def all_near(found: Sequence[Tensor], wanted: Sequence[Tensor], before: Sequence[Tensor], tolerance: float) -> Tensor:
    """Whether tensors are where they should be, beside how far they came; and beside how exact they are: a flag."""
    limits = [
        tolerance * (one - start).norm() + 4 * torch.finfo(one.dtype).eps * one.norm()
        for one, start in zip(wanted, before, strict=True)
    ]
    near = [(one - two).norm() <= limit for one, two, limit in zip(found, wanted, limits, strict=True)]
    return torch.stack(near).all()
