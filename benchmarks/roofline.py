"""How far training steps, and image features from files, are from what the device can do.

    python benchmarks/roofline.py [--device cuda] [--precision fp32 amp bf16] [--backbone ViT-B/16] [--rounds 7]
                                  [--batch 32] [--photos 256] [--graph] [--small]

Three tables, measured in one process on a CLIP with random weights, medians over the rounds:

1. What the device can do: matrix products of the shapes in both towers, in the precision's number format (TFLOP/s;
   "all tokens" are those of a batch); a copy of memory (GB/s, bytes read and bytes written); a kernel that adds one
   number (microseconds from one launch to the next).
2. For each step of ours in `steps.py`: the floating-point operations that it does (`torch.utils.flop_counter`: matrix
   products, convolutions and attention, forward and backward), how long they would take at the highest speed of the
   first table ("at best"), how long the step takes, and how many times longer that is: median (range). "launching" is
   the number of its kernels (a GPU's) times the time from one launch to the next: a step that takes as long waits for
   its launches, not for its arithmetic. With --graph, steps on cached features stand there once more, with
   TRAIN.CUDA_GRAPH: all of one is launched at once. (In amp, and on a CPU, that changes nothing.)
3. Image features of JPEG files that are drawn for this, 600 x 450 pixels, read, decoded, resized and encoded as a run
   does it (in 32 bit), against the image tower alone on tensors that are there: images a second, and the tower's share
   of the time.

On a CPU, amp computes in 32 bit, and what `flop_counter` does not know there (attention) is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from measuring import Work, busy, described, head, in_turns, median, ratios, rows, spread
from steps import AT_ONCE, ROWS
from subjects import AS_GRAPH, SIZES, add_rounds, add_step, batch_of, bench, parsed, parser_of, step
from torch.utils.flop_counter import FlopCounterMode

from xcoop.config.plugins import get_cfg
from xcoop.engine.parts import number_formats

LAUNCHES = 1000  # that are timed together
COPIED = {"cpu": 1 << 26, "cuda": 1 << 30}  # bytes


def products(size: str, batch: int, dtype: torch.dtype, device: str) -> dict[str, tuple[Work, float]]:
    """Matrix products of the towers' blocks, by their shapes in words: the work, and its floating-point operations."""
    _, width, patch, pixels, _, text, _ = SIZES[size]
    tokens = {"image": (batch * (1 + (pixels // patch) ** 2), width), "text": (batch * 77, text)}
    made = {}
    for tower, (n, w) in tokens.items():
        for a, b in ((w, 3 * w), (w, w), (w, 4 * w), (4 * w, w)):
            x, weight = torch.randn(n, a, device=device, dtype=dtype), torch.randn(a, b, device=device, dtype=dtype)
            out = torch.empty(n, b, device=device, dtype=dtype)
            name = f"{tower}: ({n}, {a}) x ({a}, {b})"
            made[name] = (lambda x=x, weight=weight, out=out: torch.mm(x, weight, out=out)), 2.0 * n * a * b
    return made


def capabilities(precision: str, args: argparse.Namespace) -> tuple[float, float]:
    """Prints what the device can do; its most operations a second, and the seconds from one launch to the next."""
    dtype = number_formats(precision, torch.device(args.device))[0] or torch.float32
    shapes = products(args.backbone, args.batch, dtype, args.device)
    source = torch.zeros(COPIED[args.device], dtype=torch.uint8, device=args.device)
    target, one = torch.empty_like(source), torch.zeros(1, device=args.device)
    single = {"copy": lambda: target.copy_(source)} | {name: work for name, (work, _) in shapes.items()}
    taken = in_turns(single, args.rounds, args.device, AT_ONCE[args.device])
    launch = median(in_turns({"launch": lambda: one.add_(1)}, args.rounds, args.device, LAUNCHES)["launch"])
    speeds = {name: operations / median(taken[name]) for name, (_, operations) in shapes.items()}
    best = max(speeds, key=lambda name: speeds[name])
    print(f"\n{precision}: {str(dtype).removeprefix('torch.')}\n" + head(["what", "speed"]))
    print(rows((f"{name}{' (highest)' * (name == best)}", f"{s / 1e12:.3f} TFLOP/s") for name, s in speeds.items()))
    print(rows([["copy", f"{2 * source.nbytes / median(taken['copy']) / 1e9:.1f} GB/s"]]))
    print(rows([["from one launch to the next", f"{1e6 * launch:.2f} us"]]), flush=True)
    return speeds[best], launch


def steps_table(speeds: dict[str, tuple[float, float]], args: argparse.Namespace) -> None:
    """Prints each step of ours beside its arithmetic; `speeds` as `capabilities` gives them, by precision."""
    print(
        "\n" + head(["step", "precision", "GFLOP", "at best, ms", "takes, ms", "times longer", "busy", "launching, ms"])
    )
    with bench(args.backbone, args.device) as made:
        images = torch.randn(args.batch, 3, made.pixels, made.pixels, device=args.device)
        for row in ROWS:
            ways = {"": (), ", as a graph": AS_GRAPH} if args.graph and row.cached else {"": ()}
            names = {f"{precision}{way}": (precision, keys) for precision in speeds for way, keys in ways.items()}
            trainers = {
                name: made.trainer(row.trainer, precision, *row.pairs, *keys)
                for name, (precision, keys) in names.items()
            }
            works = {name: work_of(trainer, images, row.cached) for name, trainer in trainers.items()}
            operations = {name: float(counted(work)) for name, work in works.items()}  # of a first step, which is plain
            taken = in_turns(works, args.rounds, args.device, AT_ONCE[args.device])
            for name, (precision, keys) in names.items():
                speed, launch = speeds[precision]
                found, best = busy(works[name], taken[name], args.device), operations[name] / speed
                launching = "-" if keys or found.kernels is None else f"{1e3 * launch * found.kernels:.1f}"
                times = [f"{1e3 * best:.2f}", f"{1e3 * median(taken[name]):.1f}"]
                longer = spread((one.wall / best for one in taken[name]), 1)
                print(
                    rows([[row.title, name, f"{operations[name] / 1e9:.1f}", *times, longer, found, launching]]),
                    flush=True,
                )


def work_of(trainer: Any, images: torch.Tensor, cached: bool) -> Work:
    """A step of a trainer on these images."""
    batch = batch_of(trainer, images, cached)
    return lambda: step(trainer, batch)


def counted(work: Work) -> int:
    """The floating-point operations of a piece of work; it is done once."""
    with FlopCounterMode(display=False) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def images_table(args: argparse.Namespace) -> None:
    """Prints how fast features of drawn files are computed, and the tower alone."""
    print("\n" + head(["from files, images/s", "tower alone, images/s", "share of the tower, %"]))
    with bench(args.backbone, args.device, args.photos) as made:
        trainer = made.trainer("XCoOp", "fp32", "DATALOADER.NUM_WORKERS", get_cfg().DATALOADER.NUM_WORKERS)
        loader, store = trainer.train_loader_x, trainer.store
        ready = torch.stack([loader.dataset[i]["img"] for i in range(args.photos)]).to(args.device)

        @torch.no_grad()
        def tower() -> None:
            for part in ready.split(store.batch_size):
                trainer.backbone.encode_image(part, patches=store.patches)

        taken = in_turns({"files": lambda: store.features(loader), "tower": tower}, args.rounds, args.device)
        share = spread((100 * share for share in ratios(taken["tower"], taken["files"])), 0)
        print(rows([[*(f"{args.photos / median(costs):.1f}" for costs in taken.values()), share]]))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the three tables."""
    parser = parser_of(__doc__)
    add_rounds(parser)
    add_step(parser)
    parser.add_argument("--photos", type=int, help="drawn files; default: 512 on a GPU, 32 on a CPU")
    args = parsed(parser, argv)
    args.photos = args.photos or (512 if args.device == "cuda" else 32)
    print(f"{described(args.device)}, {args.backbone}, B = {args.batch}, {args.rounds} rounds, {args.photos} files")
    speeds = {precision: capabilities(precision, args) for precision in args.precision}
    steps_table(speeds, args)
    images_table(args)


if __name__ == "__main__":
    main()
