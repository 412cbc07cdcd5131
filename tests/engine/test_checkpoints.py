"""Hostile, damaged and old checkpoints."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dassl.utils import load_checkpoint, load_pretrained_weights
from torch import nn

from xcoop.engine import checkpoint
from xcoop.engine.checkpoint import CheckpointError


class Payload:
    """Runs a command when it is unpickled without care."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("function", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr")])
def test_code_is_never_run_and_is_named(tmp_path: Path, zipped: bool, function: Any, name: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "hostile.pth"
    argument = f"touch {trap}" if function is os.system else f"open({str(trap)!r}, 'w')"
    arguments = ("x", "upper") if function is getattr else (argument,)
    content = {"state_dict": {"weight": torch.zeros(1)}, "epoch": 1, "optimizer": Payload(function, *arguments)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for load in (load_checkpoint, lambda p: load_pretrained_weights(nn.Linear(1, 1), p)):
        with pytest.raises(CheckpointError, match=name) as error:
            load(str(path))
        assert "hostile.pth" in str(error.value)
    assert not trap.exists()


def test_state_of_an_allowed_class_runs_nothing_and_is_allowed_in_that_load_alone(tmp_path: Path) -> None:
    """A stand-in takes any state, but has no method of the real class that would act on it."""
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    torch.save({"object": sgd}, tmp_path / "o.pth")
    thing = load_checkpoint(str(tmp_path / "o.pth"))["object"]
    assert not isinstance(thing, torch.optim.Optimizer)
    assert thing.param_groups[0]["lr"] == 0.1
    assert not hasattr(thing, "step")
    with pytest.raises(Exception, match="SGD"):
        torch.load(tmp_path / "o.pth", weights_only=True)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth.tar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(8 << 20))
    with pytest.raises(CheckpointError, match=r"bomb.pth.tar .*would unpack to 8,388,608"):
        checkpoint.read(path)


def test_damaged_and_other_files_are_named_without_dangerous_advice(tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    torch.save({"state_dict": {"w": torch.zeros(100)}, "epoch": 1}, path)
    data = path.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) * 99 // 100):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"short\.pth cannot be read: it is damaged"):
            load_checkpoint(str(path))
    path.write_bytes(b"<html><body>not found</body></html>")
    with pytest.raises(CheckpointError, match=r"short\.pth cannot be read") as error:
        load_checkpoint(str(path))
    assert "weights_only" not in str(error.value)


OPTIMISERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.RAdam)
SCHEDULERS = {
    "cosine": lambda optimiser: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10.0),
    "step": lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 3),
    "steps": lambda optimiser: torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 5]),
}


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_every_object_that_dassl_pickles_is_read(tmp_path: Path, kind: Any, schedule: str) -> None:
    net = nn.Linear(2, 2)
    optimiser = kind(net.parameters(), lr=0.1)
    successor = SCHEDULERS[schedule](optimiser)
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()  # so that its state holds tensors
    successor.step()
    state = {"state_dict": OrderedDict(net.state_dict()), "epoch": 2, "val_result": np.float64(81.25)}
    state |= {"optimizer": optimiser.state_dict(), "scheduler": {"successor": successor, "last_epoch": 1}}
    torch.save(state, tmp_path / "old.pth")
    content = load_checkpoint(str(tmp_path / "old.pth"))
    assert torch.equal(content["state_dict"]["weight"], net.weight)
    assert content["scheduler"]["successor"].last_epoch == 1
    assert content["val_result"] == 81.25
    assert type(content["val_result"]) is float


def test_numpy_numbers_become_python_numbers_and_arrays_are_refused(tmp_path: Path) -> None:
    for number in (np.float32(0.5), np.int64(-7), np.float16(2.5), np.bool_(True)):
        torch.save({"n": number}, tmp_path / "n.pth")
        value = load_checkpoint(str(tmp_path / "n.pth"))["n"]
        assert value == number.item()
        assert type(value) is type(number.item())
    torch.save({"a": np.array([1, 2])}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_checkpoint(str(tmp_path / "a.pth"))


def test_every_flipped_bit_is_noticed(tmp_path: Path, caplog: Any) -> None:
    """Of the file of a checkpoint; what is left unread (the mark of the checksum itself) is said."""
    path, generator = tmp_path / "model.pth.tar-1", torch.Generator().manual_seed(0)
    state = {"ctx": torch.randn(4, 3, generator=generator)}
    checkpoint.save_checkpoint({"state_dict": state, "epoch": 1, "val_result": 87.5}, str(tmp_path))
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        caplog.clear()
        try:
            content = checkpoint.read(path)
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert torch.equal(content["state_dict"]["ctx"], state["ctx"])
            assert content["val_result"] == 87.5
    assert refused > 140


def test_a_checksum_is_no_hindrance_to_others_and_its_lack_is_said(tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "model.pth.tar-1"
    checkpoint.write({"state_dict": {"ctx": torch.ones(2)}, "epoch": 1}, path)
    assert torch.load(path, weights_only=False)["epoch"] == 1  # as Dassl reads it
    assert zipfile.ZipFile(path).testzip() is None
    assert (checkpoint.read(path)["epoch"], caplog.text) == (1, "")
    torch.save({"state_dict": {}, "epoch": 2}, path)
    assert checkpoint.read(path)["epoch"] == 2
    assert f"{path} carries no checksum" in caplog.text
