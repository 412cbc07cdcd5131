"""What one heat map costs, against one forward and backward pass of the same image.

    python benchmarks/explanations.py [--rounds 7] [--device cuda] [--backbone ViT-B/16] [--small]

A CLIP with random weights, one image. The methods take turns with the plain pass in one process, so that a
drifting machine hits all alike. What counts are the ratios; those of the defaults are meant to stay below 3. "memory"
is what a pass holds at its peak beyond what it found; "busy" is the share of the time during which the device computes,
as in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from measuring import Work, busy, described, head, in_turns, peak_memory, ratios, rows, spread
from subjects import add_rounds, parsed, parser_of, random_clip

from xcoop.backbones.openai import ClipBackbone
from xcoop.explain.maps import DEFAULTS, concept_target, explain_maps, explainers

PLAIN = "forward and backward"
SLOW = ("rise", "occlusion")  # hundreds of forward passes


def passes(size: str, device: str) -> dict[str, Work]:
    """The plain pass, and each method of a ViT."""
    backbone = ClipBackbone(size, random_clip(size)).to(device)
    image = torch.randn(1, 3, backbone.input_size, backbone.input_size, device=device)
    target = concept_target("a text", torch.randn(backbone.embed_dim, device=device), 100.0)

    def plain() -> object:
        pixels = image.clone().requires_grad_(True)
        return torch.autograd.grad(target.score(backbone.encode_image(pixels, patches=True)).sum(), pixels)

    names = [name for name, one in explainers().items() if "vit" in one.towers and name not in SLOW]
    names += [name for name in DEFAULTS["vit"] if name not in names]
    made = {name: (lambda name=name: explain_maps(name, backbone, image, target)) for name in names}
    return {PLAIN: plain, **made}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = parser_of(__doc__)
    add_rounds(parser)
    args = parsed(parser, argv)
    works = passes(args.backbone, args.device)
    costs = in_turns(works, args.rounds, args.device)
    print(f"{described(args.device)}, {args.backbone}, {args.rounds} rounds")
    print(head(["method", "times one forward and backward pass (range)", "memory, MB", "busy"]))
    for name, work in works.items():
        mark = " (default)" if name in DEFAULTS["vit"] else ""
        times = spread(ratios(costs[name], costs[PLAIN]))
        memory = f"{peak_memory(work, args.device) / 1e6:.0f}"
        print(rows([[f"{name}{mark}", times, memory, busy(work, costs[name], args.device)]]))


if __name__ == "__main__":
    main()
