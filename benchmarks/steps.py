"""One training step of each method, ours against a baseline: the same values computed as they are commonly computed.

    python benchmarks/steps.py [--rounds 7] [--device cuda] [--precision fp32|amp|bf16]

A CLIP ViT-B/16 with random weights, 2 classes, 8 images. Both sides of a pair start from the same weights and see the
same images; the variants take turns in one process, so that a drifting machine hits all alike. What counts are the
ratios, and the difference of the losses beside them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from as_released import PlainCoCoOp, PlainCoOp, PlainReleasedXCoOp
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.openai import ClipBackbone
from xcoop.concepts import load_bank
from xcoop.config.plugins import get_cfg
from xcoop.methods.model import PromptModel

CLASSES = ["normal", "pneumonia"]
WORDS = "a photo of a"
B = 8
Step = Callable[[], float]


def random_clip(seed: int = 0) -> Any:
    """A ViT-B/16 CLIP, frozen, with random weights."""
    torch.manual_seed(seed)
    return import_clip().model.CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12).eval().requires_grad_(False)


def make_step(losses: Callable[[], Tensor], parameters: list[Any], precision: str, device: str) -> Step:
    """Forward, backward and one small SGD step; returns the loss."""
    optimiser = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
    dtype = {"amp": torch.float16, "bf16": torch.bfloat16}.get(precision)

    def step() -> float:
        with torch.autocast(device, dtype=dtype or torch.float16, enabled=dtype is not None):
            loss = losses()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def ours(model: PromptModel, inputs: Callable[[], Any], labels: Tensor) -> Callable[[], Tensor]:
    """The summed losses of one of our models; `inputs` gives image features, computed or cached."""

    def losses() -> Tensor:
        return model.loss(model.losses(inputs(), labels))

    return losses


def plain(model: torch.nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """Cross entropy of a plain model's logits."""
    return lambda: F.cross_entropy(model(images), labels)


def pairs(device: str, precision: str) -> dict[str, tuple[Step, Step]]:
    """Per method: the baseline's step and ours."""
    from xcoop.trainers.cocoop import CoCoOpModel
    from xcoop.trainers.coop import CoOpModel
    from xcoop.trainers.xcoop_released import ReleasedModel

    cfg = get_cfg().TRAINER
    clip = random_clip().to(device)
    images = torch.randn(B, 3, 224, 224, device=device)
    labels = torch.arange(B, device=device) % 2
    found = {}

    def add(name: str, baseline: tuple[Any, list[Any]], own: tuple[Any, list[Any]]) -> None:
        found[name] = tuple(make_step(losses, params, precision, device) for losses, params in (baseline, own))

    def backbone() -> ClipBackbone:
        return ClipBackbone("ViT-B/16", copy.deepcopy(clip)).requires_grad_(False).to(device)

    bank = load_bank("pneumonia").for_classes(CLASSES)
    released = ReleasedModel(backbone(), CLASSES, bank, cfg.XCOOPRELEASED).to(device)
    tower = backbone()
    tokens = [tower.tokenize([text(name) for name in CLASSES]).to(device) for text in (prompt, sentence(bank))]
    copies = PlainReleasedXCoOp(tower.model, *tokens, 4, N=4, M=2, weights=[5.0, 5.0]).to(device)
    for parameter in copies.trained():
        parameter.requires_grad_(True)
    add(
        "XCoOp (released)",
        (lambda: torch.stack(copies.losses(images, labels)).sum(), copies.trained()),
        (ours(released, lambda: released.encode_images(images), labels), list(released.trained_parameters().values())),
    )

    cfg.COOP.CTX_INIT = cfg.COCOOP.CTX_INIT = WORDS
    for name, make, make_plain, keys in (
        ("CoOp", CoOpModel, PlainCoOp, cfg.COOP),
        ("CoCoOp", CoCoOpModel, PlainCoCoOp, cfg.COCOOP),
    ):
        model = make(backbone(), CLASSES, keys).to(device)
        baseline = make_plain(clip, tokens[0], model.prompt_learner.ctx.detach()).to(device)
        if name == "CoCoOp":
            given = {key: value for key, value in model.trained_state().items() if key.startswith("meta_net.")}
            for parameter, value in zip(baseline.meta_net.parameters(), given.values(), strict=True):
                parameter.data.copy_(value)
        trained = [parameter for parameter in baseline.parameters() if parameter.requires_grad]
        cached = model.encode_images(images)
        own = (ours(model, lambda cached=cached: cached, labels), list(model.trained_parameters().values()))
        add(f"{name} (cached features)", (plain(baseline, images, labels), trained), own)
    return found


def prompt(classname: str) -> str:
    """CoOp's prompt for a class."""
    return f"{WORDS} {classname}."


def sentence(bank: Any) -> Callable[[str], str]:
    """The clinical sentence of a class."""
    from xcoop.concepts.sentences import clinical_sentences

    return lambda name: clinical_sentences(bank, name, lambda text: True)[0]


def timed(step: Step, seed: int, device: str) -> tuple[float, float]:
    """Seconds of one step, and its loss; both sides of a pair draw the same random numbers."""
    torch.manual_seed(seed)
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = step()  # reading the loss waits for the device
    return time.perf_counter() - start, loss


def main() -> None:
    """Prints a row a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one that is not counted")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "amp", "bf16"])
    args = parser.parse_args()
    steps = pairs(args.device, args.precision)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    apart = dict.fromkeys(steps, 0.0)
    for round_ in range(args.rounds + 1):
        for name, (baseline, own) in steps.items():
            (slow, want), (fast, got) = timed(baseline, round_, args.device), timed(own, round_, args.device)
            apart[name] = max(apart[name], abs(want - got))
            times[name] += [(slow, fast)] * (round_ > 0)
    print(f"{torch.get_num_threads()} threads, {args.device}, {args.precision}, torch {torch.__version__}, B={B}")
    print("| step | baseline, s | ours, s | ratio (range) | largest difference of the losses |\n|---|---|---|---|---|")
    for name, pair in times.items():
        slow, fast = (statistics.median(column) for column in zip(*pair, strict=True))
        ratios = sorted(a / b for a, b in pair)
        ratio = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}-{ratios[-1]:.1f})"
        print(f"| {name} | {slow:.3f} | {fast:.4f} | {ratio} | {apart[name]:.1e} |")


if __name__ == "__main__":
    main()
