"""A run says once by which concepts it goes, and who has read them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny_run


def lines(trainer: str, data: Path, weights: Path, out: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tiny_run.build(tiny_run.config(trainer, data, weights, out, "OPTIM.MAX_EPOCH", 1))
    return [record.getMessage() for record in caplog.records if "concept bank" in record.getMessage()]


def test_the_bank_is_stated_once(
    pictures: Path, tiny_weights_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stated = lines("XCoOp", pictures, tiny_weights_file, tmp_path / "x", caplog)
    assert stated == ["concept bank spots 1: 2 + 2 concepts, reviewed by nobody so far"]
    assert lines("CoOp", pictures, tiny_weights_file, tmp_path / "c", caplog) == [], "it uses no bank"


def test_its_readers_are_named(tiny_weights_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tiny_run.draw(tmp_path / "data")
    text = (data / "bank.yaml").read_text().replace("reviewed_by: []", "reviewed_by: [A. Reader, B. Reader]")
    (data / "bank.yaml").write_text(text)
    (stated,) = lines("XCoOp", data, tiny_weights_file, tmp_path / "x", caplog)
    assert stated.endswith("reviewed by A. Reader, B. Reader")
