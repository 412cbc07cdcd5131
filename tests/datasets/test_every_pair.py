"""Every trainer on every dataset, and with every family of backbones: two steps on a generated tree, then the test.

The backbones are small, of random weights; those of a family are saved by the family's own library.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tree_tools
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import set_random_seed
from generated_trees import LAYOUTS
from helpers_clip import tiny_clip_state
from safetensors.torch import save_file
from small_families import FAMILIES, RESNETS
from yacs.config import CfgNode

from xcoop.concepts.bank import skeleton
from xcoop.config.merge import merge_file, method_files, method_names
from xcoop.config.plugins import trainer_names, trains
from xcoop.results.record import read_predictions, read_run
from xcoop.sweep.grid import read_grid_file
from xcoop.utils.process_cache import Shared, sharing

GRIDS = Path(__file__).parents[2] / "benchmarks" / "grids"
STEPS = 2
SIZE = 16  # pixels, 2 x 2 patches
# Signs made of words that the smallest vocabulary has: others would be one unknown token, and all signs the same.
LIGHTS, THINGS = ("dark", "bright", "low", "high", "white"), ("spot", "glow", "skin", "nevus", "lesion")


@pytest.fixture(scope="module", autouse=True)
def _shared() -> Iterator[None]:
    """Backbone and features are loaded once for all runs of this file, as in a worker of a sweep."""
    with sharing(Shared()):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "smallest.safetensors"
    state = tiny_clip_state(0, layers=1, vision_width=64, embed_dim=16, image_size=SIZE)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`small(family)`: the weights of a small model of it, made once."""
    return cache(lambda family: FAMILIES[family][0](tmp_path_factory.mktemp("small") / family.replace(" ", "_")))


@pytest.fixture(scope="module")
def root(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated tree; a user's own folder has a bank beside its images."""
    made = tmp_path_factory.mktemp(dataset)
    LAYOUTS[dataset].make(made)
    if own := LAYOUTS[dataset].path:
        text = skeleton(dataset, list(LAYOUTS[dataset].counts[0])).replace("atlas:  ", "atlas: a book")
        for number in range(text.count("concept: ,")):
            sign = f"{LIGHTS[number % len(LIGHTS)]} {THINGS[number // len(LIGHTS)]}"
            text = text.replace("concept: ,", f"concept: {sign},", 1)
        (made / own / "concepts.yaml").write_text(text)
    return made


def config(
    dataset: str, trainer: str, root: Path, weights: Path, output: Path, name: str = "ViT-B/16", size: int = SIZE
) -> CfgNode:
    """The method as it is configured, with two images a class, all of them in one batch: an epoch is a step."""
    path = LAYOUTS[dataset].path
    cfg = tree_tools.config(dataset, root, NUM_SHOTS=2, **({"PATH": str(root / path)} if path else {}))
    resnet = name in {FAMILIES[family][1] for family in RESNETS}
    method = "rn50" if resnet and "rn50" in method_names(trainer) else "vit_b16"
    for file in method_files(method, trainer):
        merge_file(cfg, file)
    cfg.TRAINER.NAME, cfg.OUTPUT_DIR, cfg.USE_CUDA, cfg.VERBOSE = trainer, str(output), False, False
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH = name, str(weights)
    cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = (size, size), ("normalize",)
    cfg.INPUT.PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073]
    cfg.INPUT.PIXEL_STD = [0.26862954, 0.26130258, 0.27577711]
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE = 0, 32, 64
    cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH = STEPS, -1  # at a warm-up's rate, fp32 does not tell that norms move
    if "PREC" in cfg.TRAINER[trainer.upper()]:
        cfg.TRAINER[trainer.upper()].PREC = "fp32"
    cfg.freeze()
    return cfg


# XCoOpReleased takes one sentence a class, which few banks have.
TRAINERS = [name for name in trainer_names() if name != "XCoOpReleased"]


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("dataset", sorted(LAYOUTS), scope="module")
def test_a_trainer_on_a_dataset(dataset: str, trainer: str, root: Path, weights: Path, tmp_path: Path) -> None:
    trained_and_tested(config(dataset, trainer, root, weights, tmp_path / "out"), dataset)


TWO = ("folder", "busi")  # a user's own images, and a published set
USUAL = ("CoOp", "PromptSRC", "XCoOp")  # the text tower alone; inside both towers; with a bank


def cases() -> list[Any]:
    """Each family with some trainers, and each trainer with the family that is least like OpenAI's; others are slow."""
    found = []
    for dataset, family, trainer in itertools.product(TWO, FAMILIES, TRAINERS):
        usual = dataset == TWO[0] and (trainer in USUAL or family == "biomed")
        marks = () if usual else pytest.mark.slow
        found.append(pytest.param(dataset, family, trainer, id=f"{dataset}-{family}-{trainer}", marks=marks))
    return found


@pytest.mark.parametrize(("dataset", "family", "trainer"), cases(), scope="module")
def test_a_trainer_with_a_family(
    dataset: str, family: str, trainer: str, root: Path, small: Callable[[str], Path], tmp_path: Path
) -> None:
    weights, (_, name, size) = small(family), FAMILIES[family]
    cfg = config(dataset, trainer, root, weights, tmp_path / "out", name, size)
    if family in RESNETS and TRAINER_REGISTRY.get(trainer).needs_vit:
        with pytest.raises(ValueError, match=f"{trainer} works inside the blocks of a vision transformer"):
            build_trainer(cfg)
        return
    trained_and_tested(cfg, dataset)


PROTOCOL = read_grid_file(GRIDS / "biomedcoop.yaml")["trainers"]


@pytest.mark.parametrize("trainer", PROTOCOL)
@pytest.mark.parametrize("dataset", ["retina"], scope="module")
def test_the_peers_own_configurations_run_as_they_stand(
    dataset: str, trainer: str, root: Path, small: Callable[[str], Path], tmp_path: Path
) -> None:
    """On a small model in BiomedCLIP's form, with the files' own augmentation; epochs alone are fewer."""
    cfg = config(dataset, trainer, root, small("biomed"), tmp_path / "out", "BiomedCLIP", FAMILIES["biomed"][2])
    cfg.defrost()
    for file in method_files("biomedclip", trainer):
        merge_file(cfg, file)
    cfg.INPUT.SIZE, cfg.DATALOADER.NUM_WORKERS = (32, 32), 0
    cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE = STEPS, -1, 32
    if "PREC" in cfg.TRAINER[trainer.upper()]:
        cfg.TRAINER[trainer.upper()].PREC = "fp32"
    cfg.freeze()
    assert cfg.MODEL.BACKBONE.NAME == "BiomedCLIP"
    trained_and_tested(cfg, dataset)


def trained_and_tested(cfg: CfgNode, dataset: str) -> None:
    """Runs a config: every step is made, only what is trained changes, and the record holds all test images."""
    trainer, out = cfg.TRAINER.NAME, Path(cfg.OUTPUT_DIR)
    set_random_seed(1)
    made: Any = build_trainer(cfg)
    steps: list[int] = []
    if made.optim is not None:
        made.optim.register_step_post_hook(lambda *_: steps.append(made.epoch))
    before = {key: tensor.clone() for key, tensor in made.model.trained_state().items()}
    made.train()

    assert steps == (list(range(STEPS)) if made.optim is not None else [])
    after = made.model.trained_state()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert bool(moved) is trains(trainer)
    assert moved >= made.model.trained_parameters().keys()

    results = read_run(out)
    assert results is not None
    tested = LAYOUTS[dataset].counts[2]
    names = list(LAYOUTS[dataset].counts[0])
    assert results["classnames"] == names
    assert results["n_test"] == sum(tested.values())
    table = read_predictions(out)
    assert table.probabilities.shape == (sum(tested.values()), len(names))
    np.testing.assert_allclose(table.probabilities.sum(1), 1, atol=1e-5)  # and so there is no NaN
    assert [int((table.labels == label).sum()) for label in range(len(names))] == [
        tested.get(name, 0) for name in names
    ]
