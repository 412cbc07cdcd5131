"""What the benchmarks measure with, on work whose time, memory and operations are known; and that each of them runs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace

import cocoop_memory
import explanations
import measuring
import pytest
import roofline
import sizes
import steps
import torch
from measuring import Cost
from torch.autograd import DeviceType

from xcoop.backbones.presets import presets

FEW = ["--small", "--rounds", "1"]


def rows_of(text: str) -> list[list[str]]:
    """The cells of all tables, without the lines below their heads."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if not set(cells[0]) <= {"-"}]


def event(microseconds: float, device: DeviceType = DeviceType.CUDA, named: bool = False) -> SimpleNamespace:
    span = SimpleNamespace(elapsed_us=lambda: microseconds)
    return SimpleNamespace(device_type=device, is_user_annotation=named, time_range=span)


def test_only_kernels_count_as_time_on_a_device() -> None:
    events = [event(30.0), event(12.0), event(1000.0, DeviceType.CPU), event(90.0, named=True)]
    seconds, kernels = measuring.on_device(events)
    assert seconds == pytest.approx(42e-6)
    assert kernels == 2


def test_ratios_are_those_of_each_round() -> None:
    slow, fast = [Cost(4.0, 0), Cost(3.0, 0), Cost(10.0, 0)], [Cost(2.0, 0), Cost(1.0, 0), Cost(4.0, 0)]
    assert measuring.spread(measuring.ratios(slow, fast)) == "2.50 (2.00-3.00)"


def test_variants_take_turns_after_a_round_that_is_not_counted() -> None:
    done: list[str] = []
    costs = measuring.in_turns({name: lambda name=name: done.append(name) for name in "ab"}, 2, "cpu", times=2)
    assert "".join(done) == "aabb" * 3
    assert [len(taken) for taken in costs.values()] == [2, 2]


def test_a_processor_that_waits_is_not_busy() -> None:
    waits = [measuring.cost(lambda: time.sleep(0.05), "cpu")]
    assert measuring.busy(lambda: None, waits, "cpu").share < 0.2
    assert measuring.busy(lambda: None, [Cost(1.0, float(torch.get_num_threads()))], "cpu").share == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can")
def test_the_peak_is_what_was_held_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            torch.ones(25_000_000)  # 100 MB, freed each time

    assert measuring.peak_memory(work, "cpu") == pytest.approx(1e8, rel=0.2)


def test_operations_are_counted_forward_and_backward() -> None:
    x, weight = torch.randn(5, 7, requires_grad=True), torch.randn(7, 11)
    assert roofline.counted(lambda: (x @ weight).sum().backward()) == 2 * 2 * 5 * 7 * 11


def test_the_roofline_has_a_speed_a_bound_for_each_step_and_a_rate_of_images(capsys: pytest.CaptureFixture) -> None:
    roofline.main([*FEW, "--batch", "2", "--photos", "4", "--graph"])
    cells = rows_of(capsys.readouterr().out)
    assert sum("TFLOP/s" in row[1] for row in cells) == 8
    found = [row for row in cells if len(row) == 8 and row[0] in {step.title for step in steps.ROWS}]
    ways = [(step.title, way) for step in steps.ROWS for way in ("fp32", "fp32, as a graph")[: 1 + step.cached]]
    assert [(row[0], row[1]) for row in found] == ways
    for row in found:
        best, takes = map(float, row[3:5])
        assert 0 < best < takes
    from_files, alone = map(float, cells[-1][:2])
    assert 0 < from_files < alone


def test_both_sides_of_each_step_compute_the_same_losses(capsys: pytest.CaptureFixture) -> None:
    steps.main([*FEW, "--batch", "4", "--graph"])
    _, *cells = rows_of(capsys.readouterr().out)
    assert [row[0] for row in cells] == [step.title for step in steps.ROWS]
    assert all(float(row[8]) < 1e-4 for row in cells)
    assert [row[9] != "-" for row in cells] == [step.cached for step in steps.ROWS]


def test_the_other_benchmarks_run(capsys: pytest.CaptureFixture) -> None:
    explanations.main(FEW)
    _, plain, *methods = rows_of(capsys.readouterr().out)
    assert plain[:2] == ["forward and backward", "1.00 (1.00-1.00)"]
    assert methods
    cocoop_memory.main(["--small", "--sequences", "1600"])
    _, row = rows_of(capsys.readouterr().out)
    assert row[0] == "1600"
    assert float(row[1]) > 0
    assert float(row[2]) > 0 or math.isnan(float(row[2]))


@pytest.mark.slow
def test_each_backbone_that_is_read_has_a_size_that_is_measured(capsys: pytest.CaptureFixture) -> None:
    for library in ("transformers", "open_clip", "timm", "tokenizers", "sentencepiece"):
        pytest.importorskip(library)
    assert set(sizes.SIZES) == {"RN50", *(name for name, preset in presets().items() if preset.family)}
    sizes.main([*FEW, "--batch", "4"])
    _, *cells = rows_of(capsys.readouterr().out)
    assert [row[0] for row in cells] == list(sizes.SIZES)
    assert all(float(row[column].split()[0]) > 0 for row in cells for column in (3, 5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_is_measured(capsys: pytest.CaptureFixture) -> None:
    x = torch.randn(4096, 4096, device="cuda")
    held = measuring.peak_memory(lambda: x.new_empty(25_000_000), "cuda")
    assert held == pytest.approx(1e8, rel=0.05)
    costs = measuring.in_turns({"product": lambda: x @ x}, 5, "cuda", times=10)["product"]
    busy = measuring.busy(lambda: x @ x, costs, "cuda")
    assert busy.kernels is not None
    assert busy.kernels >= 1
    assert 0.5 < busy.share < 1.5  # one large product after the other
    for benchmark in (roofline, steps, explanations, cocoop_memory):
        benchmark.main(["--small", "--device", "cuda", *(["--rounds", "1"] if benchmark is not cocoop_memory else [])])
    assert torch.cuda.get_device_name() in capsys.readouterr().out
