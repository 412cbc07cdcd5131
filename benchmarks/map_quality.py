"""How good are a backbone's plain patch-text similarity maps on the phantom, beside control maps?

    python benchmarks/map_quality.py --cases 520 --images 200

For each test image one concept of the bank that it shows and that has a mask, in turn; the score is the scaled cosine
of image and concept. Prints means with 95 % intervals over images, and the seconds that each part took. Phantom
images are drawn: none of this is a clinical result.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.backbones.phantom import load_phantom
from xcoop.config.plugins import get_cfg
from xcoop.engine.parts import build_transform
from xcoop.evaluation.statistics import mean_of_known
from xcoop.explain.ground_truth import Truth, fit_mask, truth_of
from xcoop.explain.measures import BASELINES, control_maps, curves, localise, randomised, rank_correlation
from xcoop.methods.alignment import unit
from xcoop.phantom.layouts import write_derm7pt
from xcoop.utils.images import open_image

BETTER = {"deletion_auc": "lower", "insertion_auc": "higher"}


def main() -> None:
    """Draws, explains, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=520, help="of the phantom; 39 %% of them are tested")
    parser.add_argument("--images", type=int, default=200, help="at most so many")
    parser.add_argument("--steps", type=int, default=28, help="of the curves")
    parser.add_argument("--seed", type=int, default=2019, help="of the drawing")
    args = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        measure(args, Path(folder) / "phantom", seconds)
    print(tabulate(seconds.items(), ["Part", "Seconds"], floatfmt=".1f"))


def measure(args: argparse.Namespace, folder: Path, seconds: dict[str, float]) -> None:
    """All that is measured, into two tables."""
    timed(seconds, "draw", lambda: write_derm7pt(folder, args.cases, args.seed))
    backbone = load_phantom("phantom", "")
    cfg = config(backbone, folder)
    from dassl.data.datasets import DATASET_REGISTRY  # once `get_cfg` has seen to the engine

    dataset = timed(seconds, "load", lambda: DATASET_REGISTRY.get("Phantom")(cfg))
    truth = truth_of(dataset)
    if truth is None:
        raise SystemExit("the phantom has lost its labels")
    cases = timed(seconds, "masks", lambda: chosen(dataset, truth, args.images))
    transform = build_transform(cfg, is_train=False)
    images = torch.stack([transform(open_image(path)) for path, _, _ in cases])
    masks = torch.stack([torch.from_numpy(fit_mask(mask, backbone.input_size).copy()) for _, _, mask in cases])
    texts = unit(backbone.encode_text([concept for _, concept, _ in cases]))  # (N, D)
    maps = timed(seconds, "maps", lambda: similarity(backbone, images, texts))
    all_maps = {"similarity": maps} | control_maps(maps)
    rows = []
    for name, own in all_maps.items():
        found = timed(seconds, f"localise, {name}", partial(localise, own, masks))
        rows += [(name, metric, *shown(getattr(found, metric))) for metric in vars(found)]
    print(tabulate(rows, ["Map", "Metric", "Mean", "95 % interval", "Images"], disable_numparse=True))
    faithfulness(backbone, images, texts, all_maps, args.steps, seconds)
    forgot = similarity(randomised(backbone), images, texts)
    print("rank correlation with an untrained image tower's map:", *shown(rank_correlation(maps, forgot).numpy()))


def faithfulness(
    backbone: Backbone, images: Tensor, texts: Tensor, maps: dict[str, Tensor], steps: int, seconds: dict[str, float]
) -> None:
    """Deletion and insertion of each map on each baseline, and their differences to the random map."""
    rows = []
    for baseline in BASELINES:
        areas: dict[tuple[str, str], np.ndarray] = {}
        for name, own in maps.items():
            work = partial(each, backbone, images, texts, own, baseline, steps)
            found = timed(seconds, f"curves, {baseline}, {name}", work)
            for metric, values in found.items():
                areas[name, metric] = values
        for (name, metric), values in areas.items():
            rows.append((baseline, name, metric, BETTER[metric], *shown(values),
                         *shown(values - areas["random", metric])[:2]))  # fmt: skip
    heads = ["Baseline", "Map", "Metric", "Better", "Mean", "95 % interval", "Images", "Minus random", "95 % interval"]
    print(tabulate(rows, heads, disable_numparse=True))


def each(
    backbone: Backbone, images: Tensor, texts: Tensor, maps: Tensor, baseline: str, steps: int
) -> dict[str, np.ndarray]:
    """Areas of each image, whose scores look for a text of its own."""
    deletion, insertion = [], []
    for image, text, own in zip(images, texts, maps, strict=True):

        def score(batch: Tensor, text: Tensor = text) -> Tensor:
            return backbone.logit_scale.exp() * unit(backbone.encode_image(batch).pooled) @ text

        found = curves(score, image[None], own[None], baseline, steps)
        deletion.append(found.deletion_auc())
        insertion.append(found.insertion_auc())
    return {"deletion_auc": torch.cat(deletion).numpy(), "insertion_auc": torch.cat(insertion).numpy()}


def similarity(backbone: Backbone, images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each patch with the image's own text, (N, gh, gw)."""
    parts = [unit(backbone.encode_image(part, patches=True).patches) for part in images.split(32)]
    return (torch.cat(parts) @ texts[:, :, None]).view(len(images), *backbone.grid)


def chosen(dataset: Any, truth: Truth, limit: int) -> list[tuple[str, str, np.ndarray]]:
    """Of each test image one concept with a mask that is not empty; which one goes round from image to image."""
    cases = []
    for number, item in enumerate(dataset.test):
        shown_here = [text for text, own in truth.labels.items() if own.get(item.impath) == 1]
        found = [(text, mask) for text in shown_here if (mask := truth.mask(item.impath, text)) is not None]
        found = [(text, mask) for text, mask in found if mask.any()]
        if found and len(cases) < limit:
            cases.append((item.impath, *found[number % len(found)]))
    return cases


def config(backbone: Backbone, folder: Path) -> Any:
    """The phantom, in the backbone's own preprocessing."""
    cfg = get_cfg()
    cfg.SEED, cfg.DATASET.PATH = 1, str(folder)
    cfg.INPUT.SIZE = (backbone.input_size, backbone.input_size)
    cfg.INPUT.INTERPOLATION, cfg.INPUT.TRANSFORMS = "bicubic", ("normalize",)
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(backbone.pixel_mean), list(backbone.pixel_std)
    return cfg


def shown(values: np.ndarray) -> tuple[str, str, str]:
    """Mean, interval and number of images."""
    found = mean_of_known(values)
    return f"{found.estimate:.3f}", f"{found.low:.3f} to {found.high:.3f}", str(found.known)


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """The result of some work, whose seconds are noted."""
    start = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - start
    return result


if __name__ == "__main__":
    main()
