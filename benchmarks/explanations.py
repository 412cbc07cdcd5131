"""What one heat map costs, against one forward and backward pass of the same image.

    python benchmarks/explanations.py [--rounds 7] [--device cuda]

A CLIP ViT-B/16 with random weights, one image. The methods take turns with the plain pass in one process, so that a
drifting machine hits all alike. What counts are the ratios; those of the defaults are meant to stay below 3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from steps import random_clip

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from xcoop.backbones.openai import ClipBackbone
from xcoop.explain.maps import DEFAULTS, concept_target, explain_maps, explainers

SLOW = ("rise", "occlusion")  # hundreds of forward passes


def passes(device: str) -> dict[str, Callable[[], object]]:
    """The plain pass, and each method of a ViT."""
    backbone = ClipBackbone("ViT-B/16", random_clip()).to(device)
    image = torch.randn(1, 3, 224, 224, device=device)
    target = concept_target("a text", torch.randn(backbone.embed_dim, device=device), 100.0)

    def plain() -> object:
        pixels = image.clone().requires_grad_(True)
        return torch.autograd.grad(target.score(backbone.encode_image(pixels, patches=True)).sum(), pixels)

    names = [name for name, one in explainers().items() if "vit" in one.towers and name not in SLOW]
    names += [name for name in DEFAULTS["vit"] if name not in names]
    made = {name: (lambda name=name: explain_maps(name, backbone, image, target)) for name in names}
    return {"forward and backward": plain, **made}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    steps, seconds = passes(args.device), dict[str, list[float]]()
    for i in range(args.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if args.device != "cpu":
                torch.cuda.synchronize()
            if i:  # the first round warms up
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    plain = seconds["forward and backward"]
    sys.stdout.write("| method | times one forward and backward pass (range) |\n|---|---|\n")
    for name, own in seconds.items():
        ratios = [one / base for one, base in zip(own, plain, strict=True)]
        mark = " (default)" if name in DEFAULTS["vit"] else ""
        sys.stdout.write(f"| {name}{mark} | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |\n")


if __name__ == "__main__":
    main()
