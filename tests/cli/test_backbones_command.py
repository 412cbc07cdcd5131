"""`xcoop backbones`: what is listed, what a check says of good and bad weights, and how it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_families import FAMILIES, keep

from xcoop.backbones import backbone_names
from xcoop.backbones.presets import presets
from xcoop.cli import main
from xcoop.commands import backbones as command


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code, and what was written."""
    code = main(["backbones", *words])
    return code, *capsys.readouterr()


def test_all_are_listed_with_their_licence(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "list")
    rows = {line.split("  ")[0]: line for line in out.splitlines()[2:] if "  " in line}
    assert code == 0
    assert set(backbone_names()) <= set(rows)
    assert all(rows[name].endswith(" no") for name in presets())
    assert "open_clip" in rows["BiomedCLIP"]
    assert "MIT" in rows["BiomedCLIP"]
    assert "(not read)" in rows["ConceptCLIP"]


def test_it_is_said_which_are_here(
    hub: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(hub, presets()["PLIP"].hub, FAMILIES["huggingface"][0](tmp_path / "model"))
    monkeypatch.setattr("xcoop.backbones.clip_model.FOLDER", str(tmp_path / "clip"))
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "ViT-B-32.pt").touch()
    _, out, _ = said(capsys, "list")
    here = {line.split()[0] for line in out.splitlines() if line.endswith(" yes")}
    assert here == {"PLIP", "ViT-B/32", "phantom"}


def test_all_that_is_known_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "info", "MONET")
    assert code == 0
    for fact in ("https://huggingface.co/chanwkim/monet", "Licence: not stated", "Nature Medicine", "224 x 224"):
        assert fact in out
    assert "Read by: nothing: its towers are Python code" in said(capsys, "info", "ConceptCLIP")[1]
    assert "Read by: openai" in said(capsys, "info", "ViT-B/16")[1]
    assert said(capsys, "info", "MONE")[0] == 2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_check_loads_classifies_and_trains(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, name, size = FAMILIES[family]
    path = make(tmp_path / "model")
    code, out, _ = said(capsys, "check", name, "--path", str(path), "--device", "cpu")
    lines = {line.partition(":")[0]: line for line in out.splitlines()}
    assert (code, lines["Verdict"]) == (0, "Verdict: it works.")
    assert f"{size} pixels" in lines["loaded"]
    assert "SHA-256 " in lines["loaded"]
    assert path.name in lines["loaded"]
    assert "of 4 drawn pictures" in lines["classified"]
    losses = [float(word) for word in lines["trained"].partition("loss ")[2].split(" -> ")]
    assert len(losses) == 3
    assert all(0 < loss < 100 for loss in losses)


def test_what_ships_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "check", "phantom")[0] == 0


def test_one_that_learns_nothing_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RATE", 0.0)
    code, out, _ = said(capsys, "check", "phantom")
    assert (code, out.splitlines()[-1]) == (1, "Verdict: it does not work: nothing changes.")


def test_one_without_finite_features_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "draw_pictures", lambda backbone: torch.full((4, 3, 64, 64), torch.nan))
    code, out, _ = said(capsys, "check", "phantom")
    assert (code, out.splitlines()[-1]) == (1, "Verdict: it does not work: the features are not finite.")


def test_bad_weights_end_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = FAMILIES["huggingface"][0](tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    code, out, err = said(capsys, "check", "PLIP", "--path", str(folder))
    assert (code, out) == (2, "")
    assert str(weights) in err
    shutil.rmtree(folder)
    code, _, err = said(capsys, "check", "PLIP", "--path", str(folder))
    assert code == 2
    assert str(folder) in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("BiomedCLIP",), "hf download microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 --local-dir FOLDER"),
        (("ConceptCLIP",), "cannot be used: its towers are Python code"),
        (("BiomedClip",), "Did you mean 'BiomedCLIP'"),
        (("huggingface",), "MODEL.BACKBONE.SOURCE"),
        (("phantom", "MODEL.BACKBONE.ACTIVATIO", "gelu"), "Did you mean 'MODEL.BACKBONE.ACTIVATION'"),
        (("phantom", "--device", "abacus"), "--device abacus"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: tuple[str, ...],
    message: str,
    hub: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = said(capsys, "check", *words)
    assert (code, out) == (2, "")
    assert message in err
