"""What the benchmarks are made on: their arguments, CLIPs with random weights, drawn JPEG files, trainers over both.

A trainer is built as a run builds it, by its name and configuration, and its own `forward_backward` is what is timed.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import xcoop  # isort: skip  # first: it answers to `import dassl`  # noqa: F401

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import build_trainer
from dassl.utils import set_random_seed

from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.openai import PUBLISHED, ClipBackbone
from xcoop.config.plugins import get_cfg
from xcoop.utils.process_cache import Shared, sharing

DEVICES = ("cpu", "cuda")
PRECISIONS = ("fp32", "amp", "bf16")
CLASSES = ["normal", "pneumonia"]  # of the bank `pneumonia`
AS_GRAPH = ("TRAIN.CUDA_GRAPH", True)  # of a trainer
WORDS = "a photo of a"  # contexts start from them
LR, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4  # of SGD; every group of parameters at the full rate
# Of a CLIP with a ViT, as in `PUBLISHED` and with the layers of the text tower behind them.
SIZES = {name: (*sizes, 12) for name, sizes in PUBLISHED.items() if sizes[2]} | {"small": (2, 64, 8, 32, 64, 64, 2)}
PHOTO = (600, 450)  # pixels of a drawn file, as those of ISIC 2018


def parser_of(about: str) -> argparse.ArgumentParser:
    """A benchmark's arguments that all have: the device and the CLIP; its help is the text `about` it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=DEVICES)
    parser.add_argument("--backbone", default="ViT-B/16", choices=SIZES, help="a CLIP with a ViT, with random weights")
    parser.add_argument("--small", action="store_const", dest="backbone", const="small", help="a tiny one, as a test")
    return parser


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """The argument of benchmarks whose variants take turns."""
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one that is not counted")


def add_step(parser: argparse.ArgumentParser) -> None:
    """The arguments of benchmarks of training steps; `parsed` fills in what the device decides."""
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="default: all on a GPU, fp32 on a CPU")
    parser.add_argument("--batch", type=int, help="images; default: 32 on a GPU, 8 on a CPU")
    parser.add_argument("--graph", action="store_true", help="steps on cached features as CUDA graphs, too")


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; without a GPU, `--device cuda` ends the programme with a message."""
    args = parser.parse_args(argv)
    gpu = args.device == "cuda"
    if gpu and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    if "precision" in args and args.precision is None:
        args.precision = list(PRECISIONS) if gpu else ["fp32"]
    if "batch" in args and args.batch is None:
        args.batch = 32 if gpu else 8
    return args


def random_clip(size: str, seed: int = 0) -> Any:
    """A frozen CLIP of one of `SIZES`, with random weights."""
    torch.manual_seed(seed)
    layers, width, patch, pixels, joint, text, depth = SIZES[size]
    sizes = (joint, pixels, layers, width, patch, 77, 49408, text, text // 64, depth)
    return import_clip().model.CLIP(*sizes).eval().requires_grad_(False)


def draw_photos(folder: Path, count: int) -> list[str]:
    """JPEG files of smooth colours with some noise, drawn anew into a folder; their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PHOTO, Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = smooth + rng.normal(0, 8, smooth.shape)
        path = folder / f"{number:04d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


class DrawnPhotos(DatasetBase):
    """All JPEG files of DATASET.ROOT as training images, the first two as validation and test images."""

    concept_bank = "pneumonia"
    template = "a photo of a {}."
    is_phantom = True

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = cfg.DATASET.ROOT
        paths = sorted(map(str, Path(cfg.DATASET.ROOT).glob("*.jpg")))
        items = [Datum(impath=path, label=i % 2, classname=CLASSES[i % 2]) for i, path in enumerate(paths)]
        super().__init__(train_x=items, val=items[:2], test=items[:2])


DATASET_REGISTRY.register(DrawnPhotos)


class Bench:
    """Builds trainers whose runs share a loaded backbone, below a temporary folder; see `bench`."""

    def __init__(self, folder: Path, size: str, device: str, photos: int) -> None:
        self.folder, self.device, self.pixels = folder, device, SIZES[size][3]
        self.name = size if size in PUBLISHED else "ViT-B/16"  # its file holds what it is
        self.files = folder / "photos"
        self.files.mkdir()
        draw_photos(self.files, photos)
        self.weights = folder / "random.safetensors"
        save_file(random_clip(size).state_dict(), self.weights)
        self._built = 0

    def trainer(self, name: str, precision: str, *pairs: object) -> Any:
        """A trainer that stands before its first step; `pairs` are further KEY, VALUE, ..."""
        cfg, self._built = get_cfg(), self._built + 1
        node = cfg.TRAINER[name.upper()]
        usual = {"CTX_INIT": WORDS, "CLIP_GRAD_NORM": 0.0, "NORM_LR_MULT": 1.0, "OFFSET_LR_MULT": 1.0}
        own = [part for key, value in usual.items() if key in node for part in (f"TRAINER.{name.upper()}.{key}", value)]
        cfg.merge_from_list(
            [
                *("TRAINER.NAME", name, f"TRAINER.{name.upper()}.PREC", precision, *own, "SEED", 1),
                *("DATASET.NAME", "DrawnPhotos", "DATASET.ROOT", str(self.files), "VERBOSE", False),
                *("OUTPUT_DIR", str(self.folder / f"run{self._built}"), "USE_CUDA", self.device == "cuda"),
                *("MODEL.BACKBONE.NAME", self.name, "MODEL.BACKBONE.PATH", str(self.weights)),
                *("INPUT.SIZE", 2 * [self.pixels], "INPUT.INTERPOLATION", "bicubic", "INPUT.TRANSFORMS", ["normalize"]),
                *("INPUT.PIXEL_MEAN", list(ClipBackbone.pixel_mean), "INPUT.PIXEL_STD", list(ClipBackbone.pixel_std)),
                *("DATALOADER.TRAIN_X.BATCH_SIZE", 2, "DATALOADER.TEST.BATCH_SIZE", 32),
                *("DATALOADER.NUM_WORKERS", 0, "FEATURES.CACHE", False),
                *("OPTIM.NAME", "sgd", "OPTIM.LR", LR, "OPTIM.MOMENTUM", MOMENTUM, "OPTIM.WEIGHT_DECAY", DECAY),
                *("OPTIM.LR_SCHEDULER", "cosine", "OPTIM.MAX_EPOCH", 50),
                *pairs,
            ]
        )
        cfg.freeze()
        set_random_seed(cfg.SEED)
        with redirect_stdout(io.StringIO()):  # the engine prints what it builds
            trainer = build_trainer(cfg)
            trainer.before_train()
        trainer.set_model_mode("train")
        trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 1 << 30
        return trainer


@contextmanager
def bench(size: str, device: str, photos: int = 4) -> Iterator[Bench]:
    """A `Bench` of CLIPs of one of `SIZES` on a device, with so many drawn files; its folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, sharing(Shared()):
        yield Bench(Path(folder), size, device, photos)


def batch_of(trainer: Any, images: Tensor, cached: bool) -> dict[str, Any]:
    """A batch as the trainer's loaders give it: of images (B, 3, S, S), or of their features."""
    batch: dict[str, Any] = {"label": torch.arange(len(images)) % 2, "impath": [""] * len(images), "img": images}
    if cached:
        with torch.no_grad():
            batch["features"] = trainer.model.encode_images(images.to(trainer.device))
    return batch


def step(trainer: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The trainer's next step, in an epoch that does not end; what it shows."""
    shown: dict[str, Any] = trainer.forward_backward(batch)
    trainer.batch_idx += 1
    return shown
