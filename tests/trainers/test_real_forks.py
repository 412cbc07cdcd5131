"""README's two edits in real CoOp forks: ours trains there, and theirs still does. XCOOP_FORKS names their folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers_clip import tiny_clip_state
from PIL import Image

import xcoop
from xcoop.config.plugins import plugin_path
from xcoop.results.record import read_run

FORKS = os.environ.get("XCOOP_FORKS", "")
DASSL = os.environ.get("XCOOP_REAL_DASSL", "")
THEIRS = Path(DASSL)  # the Dassl of those that bring none of their own


class Fork(NamedTuple):
    """A checkout below XCOOP_FORKS, a trainer of it or "", keys that a CPU needs, and the Dassl that it brings."""

    folder: str
    trainer: str
    pairs: tuple[str, ...] = ()
    dassl: str = ""


KNOWN = [
    Fork("CoOp", "CoOp", ("TRAINER.COOP.PREC", "fp32")),
    Fork(
        "PromptSRC",
        "IVLP",
        (
            *("TRAINER.IVLP.PREC", "fp32"),
            *("TRAINER.IVLP.PROMPT_DEPTH_VISION", "2", "TRAINER.IVLP.PROMPT_DEPTH_TEXT", "2"),
        ),
    ),
    Fork("multimodal-prompt-learning", "MaPLe", ("TRAINER.MAPLE.PREC", "fp16", "TRAINER.MAPLE.PROMPT_DEPTH", "2")),
    Fork("XCoOp", ""),  # its own trainer needs the sentences of its dataset
    Fork("lasp", "LASP", ("TRAINER.LASP.PREC", "fp32")),
    Fork("BiomedCoOp", "CoOp_CLIP", (), "BiomedCoOp/Dassl.pytorch"),
    Fork("KgCoOp/KgCoOp", "CoOp", ("TRAINER.COOP.PREC", "fp32"), "KgCoOp/Dassl.ProGrad.pytorch"),
    Fork("Prompt-align/ProGrad.public", "CoOp", ("TRAINER.COOP.PREC", "fp32"), "Prompt-align/Dassl.ProGrad.pytorch"),
]
SMALL = ("DATASET.CASES", "60", "DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0")
# Their weights are downloaded. In their place: random ones of a small CLIP, in the file that they would find.
STAND_IN = """
import clip.clip, torch
from xcoop.data.dataset import MedicalDataset
clip.clip._download = lambda *_, **__: {weights!r}
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self  # some ask for a GPU by name
MedicalDataset.all_class_names = property(lambda self: self.classnames)  # which their own datasets have
"""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 64 pixels with two blocks of random weights, and the widths of ViT-B/16, which some state again."""
    path = tmp_path_factory.mktemp("weights") / "ViT-B-16.pt"
    state = tiny_clip_state(image_size=64, layers=2, text_width=512, vision_width=768, embed_dim=512)
    torch.save(state, path)
    return path


def edited(fork: Path, weights: Path) -> str:
    """Its train.py with `import xcoop` first and `xcoop.plug_in(cfg)` at the end of `extend_cfg`."""
    text = (fork / "train.py").read_text(encoding="utf-8")
    before, name, after = text.partition("\ndef setup_cfg(")
    assert name
    return (
        f"import xcoop\n{before.rstrip()}\n    xcoop.plug_in(cfg)\n{STAND_IN.format(weights=str(weights))}{name}{after}"
    )


@pytest.mark.slow
@pytest.mark.dassl
@pytest.mark.skipif(not (FORKS and DASSL), reason="XCOOP_FORKS and XCOOP_REAL_DASSL name no checkouts")
@pytest.mark.parametrize("fork", KNOWN, ids=lambda fork: fork.folder)
def test_ours_and_theirs_train_from_their_own_programme(fork: Fork, weights: Path, tmp_path: Path) -> None:
    place = Path(FORKS, fork.folder)
    if not (place / "train.py").is_file():
        pytest.skip(f"no {place}")
    (tmp_path / "train.py").write_text(edited(place, weights), encoding="utf-8")
    engine = Path(FORKS, fork.dassl) if fork.dassl else THEIRS
    paths = [str(place), str(engine), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "disabled"}
    method = subprocess.run(  # as README has it: one file, whatever ours builds on
        [sys.executable, "-m", "xcoop.cli", "path", "configs/trainers/XCoOp/phantom.yaml"],
        env=os.environ | {"XCOOP_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    flags = ["--dataset-config-file", str(plugin_path("configs", "datasets", "phantom.yaml")), "--seed", "1"]
    flags += ["--config-file", method]
    names = {"ours": "xcoop.XCoOp" if fork.folder == "XCoOp" else "XCoOp", "theirs": fork.trainer}
    for whose, name in names.items():
        if not name:
            continue
        own = ("MODEL.BACKBONE.NAME", "ViT-B/16", *fork.pairs) if whose == "theirs" else ()
        command = [sys.executable, "train.py", "--trainer", name, "--output-dir", str(tmp_path / whose), *flags]
        done = subprocess.run(
            [*command, *SMALL, *own], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (whose, done.stdout[-2000:] + done.stderr[-3000:])
        assert "* accuracy: " in done.stdout
    record = read_run(tmp_path / "ours")
    assert record is not None
    assert record["trainer"] == "XCoOp"
    assert record["metrics"]["accuracy"] > 0.6  # as everywhere on these pictures: the sentences alone do that
    model = xcoop.load_run(tmp_path / "ours")
    assert model.predict([Image.new("RGB", (64, 64))]).probabilities.shape == (1, 2)
    assert not (tmp_path / "theirs" / "predictions.csv").exists()  # of ours alone; LASP has a results.json of its own
