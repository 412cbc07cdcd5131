"""Runs that are trained side by side are the runs that each would be alone; and one that ends badly ends alone."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_jobs
import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.methods import together
from xcoop.methods.model import PromptModel
from xcoop.methods.together import Meeting
from xcoop.results.record import read_run
from xcoop.sweep.job import FAILED, FINISHED, FOUND, Job, Outcome, Runner, process_state, together_of
from xcoop.sweep.launcher import FEWEST, MOST, Launcher, Slot

METHODS = ("CoOp", "KgCoOp", "ProGrad", "BiomedCoOp", "LASP", "XCoOp", "XCoOpPublished", "XCoOpReleased")
Made = Callable[..., list[Job]]  # the fixture `made`


@pytest.fixture
def made(tiny_data: Path, tiny_weights_file: Path, tmp_path: Path) -> Made:
    """Makes jobs of a method below a folder, one for each list of KEY VALUE pairs."""

    def make(where: str, trainer: str, *choices: tuple[Any, ...]) -> list[Job]:
        folders = [tmp_path / where / str(number) for number in range(len(choices))]
        pairs = zip(folders, choices, strict=True)
        return [tiny_jobs.job(trainer, tiny_data, tiny_weights_file, folder, *choice) for folder, choice in pairs]

    return make


def side_by_side(jobs: list[Job]) -> list[Outcome]:
    ends: dict[Path, Outcome] = {}
    Runner().side_by_side(jobs, lambda job, end: ends.update({job.folder: end}), lambda job: io.StringIO())
    return [ends[job.folder] for job in jobs]


def alone(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    return [Runner()(job) for job in jobs]


def lines(job: Job) -> list[str]:
    """What the log says of the steps, without their times."""
    found = [line for line in (job.folder / "log.txt").read_text().splitlines() if line.startswith("epoch [")]
    return [line.partition(" time ")[0] + line.partition("loss ")[2].partition(" eta ")[0] for line in found]


@pytest.mark.parametrize("trainer", METHODS)
def test_each_is_the_run_that_it_is_alone(trainer: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = ("SEED", 1, "OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 4)
    choices = (("SEED", 1), ("SEED", 2), longer)
    one, other = made("alone", trainer, *choices), made("together", trainer, *choices)
    assert {end.state for end in alone(one, monkeypatch)} == {FINISHED}
    assert {end.state for end in side_by_side(other)} == {FINISHED}
    for mine, its in zip(one, other, strict=True):
        assert tiny_jobs.differing(mine.folder, its.folder) == []
        assert lines(mine) == lines(its) != []
        assert [(read_run(job.folder) or {})["runs_at_once"] for job in (mine, its)] == [1, 3]


def test_methods_that_do_more_than_pass_prompts_through_a_frozen_tower_are_not_meant() -> None:
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.config.plugins import get_cfg, load_plugins

    load_plugins()
    cfg = get_cfg()
    meant = []
    for name in TRAINER_REGISTRY.registered_names():
        cfg.TRAINER.NAME = name
        meant += [name] if together_of(cfg, "group") else []
    assert sorted(meant) == sorted(METHODS)


def test_a_text_tower_that_is_trained_is_shared_with_nobody(tiny_backbone: Backbone) -> None:
    class Mine(PromptModel):
        pass

    model = Mine(tiny_backbone, ["one", "other"])
    assert model.text_tower_frozen
    model.tune_norms()  # of the image tower
    assert model.text_tower_frozen
    next(iter(tiny_backbone.model.ln_final.parameters())).requires_grad_(True)
    assert not model.text_tower_frozen


def test_one_pass_serves_all_prompts_of_a_step(
    made: Made, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    plain = type(tiny_backbone).end_states

    def counted(self: Backbone, embeddings: Tensor, end: Tensor, *more: Any) -> Tensor:
        if embeddings.requires_grad:
            passes.append(len(end))
        return plain(self, embeddings, end, *more)

    monkeypatch.setattr(type(tiny_backbone), "end_states", counted)
    jobs = made("out", "CoOp", *(("SEED", seed) for seed in (1, 2, 3)))
    alone(jobs[:1], monkeypatch)
    steps = len(passes)
    assert passes == [2] * steps  # two classes
    passes.clear()
    assert {end.state for end in side_by_side(jobs[1:])} == {FINISHED}
    assert passes == [4] * steps


def test_what_fails_ends_alone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = (("SEED", 1), ("SEED", 2, "OPTIM.LR", 1e30), ("SEED", 3))
    jobs = made("together", "CoOp", *choices)
    good, bad, last = side_by_side(jobs)
    assert [good.state, bad.state, last.state] == [FINISHED, FAILED, FINISHED]
    assert "is nan in epoch" in bad.message or "is inf in epoch" in bad.message
    others = made("alone", "CoOp", choices[0], choices[2])
    alone(others, monkeypatch)
    assert [tiny_jobs.differing(a.folder, b.folder) for a, b in zip(others, (jobs[0], jobs[2]), strict=True)] == [
        [],
        [],
    ]
    assert [end.state for end in side_by_side([jobs[0], jobs[2]])] == [FOUND, FOUND]


def test_a_run_that_was_cut_goes_on_among_others(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has the checkpoint of its second epoch, as if it had been killed in the third."""
    whole = ("OPTIM.MAX_EPOCH", 4, "TRAIN.CHECKPOINT_FREQ", 2)
    one, other = (made(where, "CoOp", ("SEED", 1, *whole), ("SEED", 2, *whole)) for where in ("alone", "together"))
    alone(one, monkeypatch)
    alone(other[:1], monkeypatch)
    for name in ("results.json", "predictions.csv", "prompt_learner/model.pth.tar-4"):
        (other[0].folder / name).unlink()
    (other[0].folder / "prompt_learner" / "checkpoint").write_text("model.pth.tar-2\n")
    assert [(end.state, end.message) for end in side_by_side(other)] == [(FINISHED, "")] * 2
    assert [tiny_jobs.differing(a.folder, b.folder) for a, b in zip(one, other, strict=True)] == [[], []]
    assert lines(other[0]) == lines(one[0])[4:], "two epochs of two steps were done"


# The meeting itself, without trainings.


def embedded(backbone: Backbone, seed: int, n: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, length, backbone.text_width, generator=generator)
    return embeddings, torch.randint(1, length, (n,), generator=generator)


def test_gradients_are_those_of_a_pass_alone_twice_if_asked_twice(tiny_backbone: Backbone) -> None:
    """Prompts of three works, two of them of one length; the last asks for the gradients of two losses."""
    sizes = [(3, 9), (5, 9), (2, 12)]

    def gradients(encode: Any, backward: Any, seed: int, n: int, length: int) -> list[Tensor]:
        embeddings, end = embedded(tiny_backbone, seed, n, length)
        leaf = embeddings.requires_grad_()
        features = encode(leaf * 2, end)
        found = []
        for number, power in enumerate((1, 3)):
            backward(features.pow(power).sum(), number == 0)
            found.append(leaf.grad.clone())  # type: ignore[union-attr]
            leaf.grad = None
        return [features.detach(), *found]

    results: dict[int, list[Tensor]] = {}

    def work(seed: int, n: int, length: int) -> None:
        seat = together.current()
        assert seat is not None

        def backward(loss: Tensor, again: bool) -> None:
            loss.backward(retain_graph=again)
            seat.backward(again)

        def encode(embeddings: Tensor, end: Tensor) -> Tensor:
            return seat.encode(tiny_backbone, embeddings, end, None)

        results[seed] = gradients(encode, backward, seed, n, length)

    works = [lambda s=seed, n=n, length=length: work(s, n, length) for seed, (n, length) in enumerate(sizes)]
    Meeting(works, process_state).run()
    for seed, (n, length) in enumerate(sizes):
        expected = gradients(
            tiny_backbone.encode_embeddings,
            lambda loss, again: loss.backward(retain_graph=again),
            *(seed, n, length),
        )
        for mine, its in zip(results[seed], expected, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)  # the passes are cropped to other lengths
    assert together.current() is None


def test_each_finds_the_process_as_it_left_it(tiny_backbone: Backbone, tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def expected(seed: int) -> list[tuple[float, float, float]]:
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        return [draws() for _ in range(3)]

    found: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        here, text = tmp_path / str(number), io.StringIO()
        here.mkdir()
        os.chdir(here)
        os.environ["WHOSE"], sys.stdout = str(number), text
        torch.set_float32_matmul_precision(("highest", "high")[number])
        found[number] = []
        for _ in range(3):
            together.current().encode(tiny_backbone, *embedded(tiny_backbone, number, 2, 5), None)  # type: ignore[union-attr]
            here_still = os.getcwd() == str(here) and os.environ["WHOSE"] == str(number) and sys.stdout is text
            precise = torch.get_float32_matmul_precision() == ("highest", "high")[number]
            found[number].append((draws(), here_still and precise))

    there = os.getcwd()
    want = [expected(number) for number in range(2)]
    torch.manual_seed(5)
    after = torch.rand(4)
    torch.manual_seed(5)
    console = sys.stdout
    Meeting([lambda: work(0), lambda: work(1)], process_state).run()
    assert [found[number] for number in range(2)] == [[(draw, True) for draw in want[number]] for number in range(2)]
    assert (os.getcwd(), "WHOSE" in os.environ, sys.stdout is console) == (there, False, True)
    assert torch.equal(torch.rand(4), after)


def test_an_interruption_reaches_every_run_at_its_next_step(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []

    def work(number: int) -> None:
        try:
            while True:
                together.current().encode(tiny_backbone, *embedded(tiny_backbone, number, 2, 5), None)  # type: ignore[union-attr]
        finally:
            ended.append(number)

    answered: list[int] = []
    answer = together.answer

    def interrupted(seats: Any) -> None:
        answered.append(len(seats))
        if len(answered) == 3:
            raise KeyboardInterrupt
        answer(seats)

    monkeypatch.setattr(together, "answer", interrupted)
    meeting = Meeting([lambda n=n: work(n) for n in range(3)], process_state)
    with pytest.raises(KeyboardInterrupt):
        meeting.run()
    assert sorted(ended) == [0, 1, 2]
    assert not any(seat.thread.is_alive() for seat in meeting.seats)


def test_what_no_work_should_raise_is_raised_after_all_have_ended(tiny_backbone: Backbone) -> None:
    ended = []

    def bad() -> None:
        raise ZeroDivisionError("a fault of the programme")

    def good() -> None:
        together.current().encode(tiny_backbone, *embedded(tiny_backbone, 1, 2, 5), None)  # type: ignore[union-attr]
        ended.append(1)

    with pytest.raises(ZeroDivisionError, match="of the programme"):
        Meeting([bad, good], process_state).run()
    assert ended == [1]


# Who is trained beside whom.


def companions(
    count: int, slots: int, tmp_path: Path, gpu: bool = True, together: str = "CoOp data", **more: Any
) -> list[int]:
    """How many a worker gets at once, hand after hand, of so many jobs."""
    jobs = [Job((), tmp_path / str(number), str(number), "data", together=together) for number in range(count)]
    where = [Slot(str(number), {"CUDA_VISIBLE_DEVICES": str(number) if gpu else ""}) for number in range(slots)]
    launched = Launcher(jobs, where, str(tmp_path), **more)
    found = []
    while launched.waiting:
        given = [launched.waiting[0], *launched._companions(launched.waiting[0], where[0])]
        launched.waiting = [job for job in launched.waiting if job not in given]
        found.append(len(given))
    return found


def test_workers_share_what_may_be_trained_side_by_side(tmp_path: Path) -> None:
    assert companions(5, 1, tmp_path) == [5]
    assert companions(5, 2, tmp_path) == [3, 1, 1]
    assert companions(20, 1, tmp_path) == [MOST, MOST, 20 - 2 * MOST]
    assert companions(3, 1, tmp_path, together="") == [1, 1, 1]
    assert companions(3, 1, tmp_path, one_by_one=True) == [1, 1, 1]
    assert companions(FEWEST, 1, tmp_path, gpu=False) == [FEWEST]
    assert companions(FEWEST - 1, 1, tmp_path, gpu=False) == [1] * (FEWEST - 1)


def test_a_launcher_trains_seeds_side_by_side_and_what_failed_alone(
    tiny_data: Path, tiny_weights_file: Path, tmp_path: Path, tiny_environment: None
) -> None:
    """In a process of its own, whose workers are forks that know the dataset of the tests."""
    script = Path(tiny_jobs.__file__)
    words = [sys.executable, str(script), "beside", str(tiny_data), str(tiny_weights_file), str(tmp_path / "out")]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    assert json.loads(said.splitlines()[-1]) == [[FINISHED, 3], [FINISHED, 3], [FAILED, None]]
    assert said.count("2: failed, and is tried once more") == 1


def test_what_a_pass_keeps_is_let_go_when_its_gradients_are_there(tiny_backbone: Backbone) -> None:
    def work(number: int) -> None:
        seat = together.current()
        assert seat is not None
        embeddings, end = embedded(tiny_backbone, number, 2, 5)
        seat.encode(tiny_backbone, embeddings.requires_grad_(), end, None).sum().backward()
        seat.backward()

    meeting = Meeting([lambda: work(0), lambda: work(1)], process_state)
    meeting.run()
    gc.collect()
    assert len(meeting.seats) == 2
    assert not [thing for thing in gc.get_objects() if isinstance(thing, together.Pass)]
