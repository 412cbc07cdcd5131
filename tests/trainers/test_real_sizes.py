"""Every trainer at the sizes of OpenAI's CLIPs, as shipped: own configuration, weights from a file of their form.

The weights are random, so nothing is learned that means anything; what must hold is all that does not depend on them.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_clip import published_state, save_archive
from PIL import Image

import xcoop
from xcoop.backbones import backbone_of
from xcoop.backbones.openai import PUBLISHED, RESNETS
from xcoop.config.merge import method_names
from xcoop.config.plugins import trainer_class, trainer_names, trains
from xcoop.explain import trained
from xcoop.runs.train import main
from xcoop.utils.process_cache import Shared, sharing

pytestmark = pytest.mark.slow

NAMES = {"vit_b16": "ViT-B/16", "rn50": "RN50", "vit_l14": "ViT-L/14"}  # by configuration
GRIDS = {"vit_b16": 14, "rn50": 7, "vit_l14": 16}  # patches a side
LARGE = ("CoOp", "XCoOp", "XCoOpPublished", "XCoOpReleased")  # those that are run at ViT-L/14
PAIRS = [
    (size, trainer) for size in NAMES for trainer in (LARGE if size == "vit_l14" else trainer_names())
]  # one architecture after the other
SPLITS = {"train": 2, "val": 1, "test": 1}  # images a class

BANK = """
name: lesions
version: "1"
dataset: Folder
template: "a dermoscopic photo of a {class}, {concepts}."
reviewed_by: []
sources: {tests: "Made for the tests."}
classes:
  melanoma:
    - {concept: atypical pigment network, source: tests}
    - {concept: blue-whitish veil, source: tests}
    - {concept: irregular streaks, source: tests}
  blue_nevus:
    - {concept: homogeneous steel-blue pigmentation, source: tests}
    - {concept: sharply demarcated border, source: tests}
"""


@dataclass(frozen=True)
class Real:
    """A file of weights, and what its runs share."""

    size: str
    weights: Path
    shared: Shared


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of two classes with a bank; not square, and larger than any tower takes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for label, name in enumerate(("melanoma", "blue_nevus")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture = rng.normal(100 + 60 * label, 30, (260, 300, 3)).clip(0, 255)
                Image.fromarray(picture.astype(np.uint8)).save(root / split / name / f"{label}{index}.png")
    (root / "concepts.yaml").write_text(BANK)
    return root


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Real]]:
    """`held(size)`: random weights in a file; those of one architecture at a time, for there are gigabytes."""
    path, now = tmp_path_factory.mktemp("weights") / "clip.pt", Real("", Path(), Shared())

    def get(size: str) -> Real:
        nonlocal now
        if size != now.size:
            now = Real(size, path, Shared())
            save_archive(published_state(NAMES[size]), path)
        return now

    yield get
    path.unlink(missing_ok=True)


@pytest.fixture
def real(request: pytest.FixtureRequest, held: Callable[[str], Real]) -> Real:
    """The architecture of this name."""
    return held(request.param)


def words(trainer: str, real: Real, images: Path, out: Path, *more: object) -> list[str]:
    """The command line of a run: as shipped, but for two epochs without a warm-up, on the CPU."""
    return [
        *("--trainer", trainer, "--config-file", real.size, "--dataset-config-file", "folder", "--seed", "1"),
        *("--output-dir", str(out), "DATASET.PATH", str(images), "MODEL.BACKBONE.PATH", str(real.weights)),
        *("USE_CUDA", "False", "DATALOADER.NUM_WORKERS", "0", "OPTIM.MAX_EPOCH", "2"),
        *("OPTIM.WARMUP_EPOCH", "-1", *map(str, more)),
    ]


def started(command: list[str]) -> int:
    """The exit code; what a trainer held is gone, though its parts refer to one another: a copy of the backbone."""
    code = main(command)
    gc.collect()
    return code


@pytest.mark.parametrize("trainer", ["XCoOp", "XCoOpPublished"])
@pytest.mark.parametrize("real", ["rn50", "vit_b16"], indirect=True)
def test_norm_layers_are_tuned_where_there_are_any(
    real: Real, trainer: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sharing(real.shared):
        code = started(words(trainer, real, images, tmp_path, f"TRAINER.{trainer.upper()}.TUNE_NORMS", True))
    if real.size == "rn50":
        assert code == 2
        assert "without layer norms to tune: choose a ViT, or turn the tuning of" in capsys.readouterr().err
        return
    assert code == 0, capsys.readouterr().err
    own = published_state(NAMES[real.size])
    state = torch.load(tmp_path / "prompt_learner" / "model.pth.tar-2", weights_only=True)["state_dict"]
    norms = {key: tensor for key, tensor in state.items() if ".ln_" in key}
    assert len(norms) == 12 * 2 * 2
    for key, tensor in norms.items():
        assert not torch.equal(tensor, own[key.removeprefix("backbone.model.")].half().float()), key


@pytest.mark.parametrize("real", ["vit_b16"], indirect=True)
@pytest.mark.parametrize("trainer", ["CoOp", "XCoOp", "XCoOpPublished"])
def test_in_bf16_probabilities_are_near_those_in_fp32(real: Real, trainer: str, images: Path, tmp_path: Path) -> None:
    found = []
    with sharing(real.shared):
        for precision in ("fp32", "bf16"):
            out = tmp_path / precision
            assert started(words(trainer, real, images, out, f"TRAINER.{trainer.upper()}.PREC", precision)) == 0
            found.append(np.loadtxt(out / "predictions.csv", delimiter=",", skiprows=1, usecols=(-2, -1)))
    np.testing.assert_allclose(*found, atol=0.1)


@pytest.mark.parametrize(("real", "trainer"), PAIRS, indirect=["real"])
def test_it_trains_is_stored_and_explains(
    real: Real,
    trainer: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, name = tmp_path / "out", NAMES[real.size]
    with sharing(real.shared):
        if real.size not in method_names(trainer):
            assert name in RESNETS
            assert trainer_class(trainer).needs_vit
            given = words(trainer, real, images, out)
            given[given.index(real.size)] = "vit_b16"
            assert started([*given, "--backbone", name]) == 2
            said = f"{trainer} works inside the blocks of a vision transformer; {name} has a ResNet for its image tower"
            assert said in capsys.readouterr().err
            return
        assert started(words(trainer, real, images, out)) == 0, capsys.readouterr().err
        evaluated = words(trainer, real, images, tmp_path / "again")
        weights = ["--model-dir", str(out)] if trains(trainer) else []
        assert started([*evaluated, "--eval-only", *weights]) == 0, capsys.readouterr().err
    results = json.loads((out / "results.json").read_text())
    assert (out / "predictions.csv").read_text() == (tmp_path / "again" / "predictions.csv").read_text()
    assert results["backbone"] == name
    assert all(math.isfinite(value) for value in results["metrics"].values() if value is not None)

    monkeypatch.setattr(trained, "load_backbone", lambda cfg: backbone_of(cfg, torch.device("cpu")))  # read once
    with sharing(real.shared):
        run = xcoop.load_run(out, device="cpu")
    assert run.backbone.fits_name
    picture = images / "test" / "melanoma" / "00.png"
    features = run.features(picture)
    joint, side = PUBLISHED[name][4], GRIDS[real.size]
    assert features.pooled.shape == (1, joint)
    assert features.patches.shape == (1, side**2, joint)
    for tensor in (features.pooled, features.patches, run.logits(features), *run.model.trained_state().values()):
        assert torch.isfinite(tensor).all()
    for key, tensor in run.model.trained_parameters().items():
        assert not torch.equal(tensor, run.start[key]), key  # a gradient has reached it
    found = run.explain(picture, concepts=["blue-whitish veil"])
    assert [one.shape for one in found.class_maps.values()] == 2 * [(side, side)]
    assert [one.shape for one in found.concept_maps.values()] == [(2 * side, 2 * side)]
    assert all(np.isfinite(one).all() for one in (*found.class_maps.values(), *found.concept_maps.values()))
    assert bool(found.base) is (trainer == "XCoOp")
    if found.base:  # exactly
        for label, logit in zip(run.classnames, run.logits(features)[0].tolist(), strict=True):
            assert abs(found.base[label] + sum(found.parts(label).values()) - logit) < 1e-5 * run.model.scale
