"""One training step of each method, ours against a baseline: the same values computed as they are commonly computed.

    python benchmarks/steps.py [--device cuda] [--precision fp32 amp bf16] [--backbone ViT-B/16] [--rounds 12]
                               [--batch 32] [--only XCoOp] [--graph] [--small]

A CLIP with random weights, two classes, random images. Ours is a step of the trainer that a run has
(`forward_backward`: losses, gradients, update), on cached features unless the image tower is trained; the baselines of
`as_released.py` encode all images, 77 tokens and copies at every step, under autocast where the precision is not fp32.
Both sides of a pair start from the same weights and see the same images; all precisions and both sides take turns in
one process, so that a drifting machine hits all alike. What the columns are:

* baseline and ours: milliseconds, the median over the rounds. On a GPU several steps are launched before the device is
  waited for, as in a run; a step is a share of them.
* ratio: how many times longer the baseline takes, round by round: median (range).
* beside fp32: how many times longer ours takes in fp32 (or what precision was asked first) than in this one.
* busy: the share of ours during which the device computes: time of the kernels in a profile of one step over the time
  of a step, and their number; on a CPU, CPU time over the time of a step and the number of threads.
* memory: MB that a step holds at its peak beyond what it found (weights, features): baseline / ours.
* apart: the largest difference of the two losses. In 16 bit it is that of rounding: ours has features of 32 bit.
* with --graph, of the same step with TRAIN.CUDA_GRAPH, where there are cached features: milliseconds, how many times
  longer the plain one takes, and busy. In amp, and on a CPU, it is a plain step.

On a CPU, amp computes in 32 bit in ours, and in the baselines.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from as_released import PlainCoCoOp, PlainCoOp, PlainReleasedXCoOp, PlainSentences
from measuring import Cost, Work, busy, cost, described, head, median, peak_memory, ratios, rows, spread
from subjects import (
    AS_GRAPH,
    CLASSES,
    DECAY,
    LR,
    MOMENTUM,
    WORDS,
    Bench,
    add_rounds,
    add_step,
    batch_of,
    bench,
    parsed,
    parser_of,
    step,
)
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.concepts.sentences import clinical_sentences
from xcoop.engine.parts import number_formats
from xcoop.trainers.cocoop import CoCoOpModel

HEAD = ("step", "precision", "baseline, ms", "ours, ms", "ratio", "beside {}", "busy", "memory, MB", "apart")
GRAPH = ("as a graph, ms", "plain beside it", "busy")
AT_ONCE = {"cpu": 1, "cuda": 5}  # steps that are launched before the device is waited for


class Row(NamedTuple):
    """A method: its name in the table, its trainer and further keys, whether features are cached, its baseline."""

    title: str
    trainer: str
    pairs: tuple[object, ...]
    cached: bool
    baseline: Callable[[Any], tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]


def copied(trainer: Any) -> Any:
    """The CLIP below a trainer, with weights of its own; what is trained in it is trained in the copy."""
    return copy.deepcopy(trainer.backbone.model)


def tokens(trainer: Any, texts: Sequence[str]) -> Tensor:
    """Token ids (N, 77) where the trainer computes."""
    found: Tensor = trainer.backbone.tokenize(texts).to(trainer.device)
    return found


def plain_sentences(trainer: Any) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """XCoOp, with norm layers if the trainer tunes them."""
    own, settings = trainer.model, trainer.settings
    weights = {"spread": own.spread.item(), "offset_spread": settings.OFFSET_SPREAD}
    weights |= {"contrast": settings.CONTRAST_WEIGHT, "N": own.n_train}
    prompts = own.prompt_learner
    model = PlainSentences(copied(trainer), tokens(trainer, prompts.texts), prompts.labels, own.clinical, **weights)
    return model, lambda images, labels: torch.stack(model.losses(images, labels)).sum()


def plain_context(trainer: Any) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """CoOp or CoCoOp."""
    kind = PlainCoCoOp if isinstance(trainer.model, CoCoOpModel) else PlainCoOp
    prompts = tokens(trainer, [f"{WORDS} {name}." for name in CLASSES])
    model = kind(copied(trainer), prompts, trainer.model.prompt_learner.ctx.detach()).to(trainer.device)
    if isinstance(model, PlainCoCoOp):
        state = trainer.model.meta_net.state_dict().values()
        model.meta_net.load_state_dict(dict(zip(model.meta_net.state_dict(), state, strict=True)))
    return model, lambda images, labels: F.cross_entropy(model(images), labels)


def plain_released(trainer: Any) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """The released XCoOp, all copies in place."""
    settings = trainer.settings
    prompts = tokens(trainer, [f"{WORDS} {name}." for name in CLASSES])
    sentences = tokens(trainer, [clinical_sentences(trainer.bank, name, lambda text: True)[0] for name in CLASSES])
    weights = [settings.PROMPT_WEIGHT, trainer.model.token_weight]
    copies = {"N": settings.N_PROMPTS, "M": settings.VISUAL_FEATURES}
    n = trainer.model.prompt_learner.ctx.shape[-2]
    model = PlainReleasedXCoOp(copied(trainer), prompts, sentences, n, **copies, weights=weights)
    return model, lambda images, labels: torch.stack(model.losses(images, labels)).sum()


ROWS = (
    Row("XCoOp, cached features", "XCoOp", (), True, plain_sentences),
    Row("XCoOp, norm layers tuned", "XCoOp", ("TRAINER.XCOOP.TUNE_NORMS", True), False, plain_sentences),
    Row("CoOp, cached features", "CoOp", (), True, plain_context),
    Row("CoCoOp, cached features", "CoCoOp", (), True, plain_context),
    Row("XCoOp as released", "XCoOpReleased", (), False, plain_released),
)


def plain_step(model: nn.Module, losses: Callable[[], Tensor], precision: str, device: str) -> Callable[[], Tensor]:
    """Forward, backward and update of a baseline; returns the loss."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    dtype, scaler = number_formats(precision, torch.device(device))

    def one() -> Tensor:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = losses()
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        return loss.detach()

    return one


def all_sides(row: Row, made: Bench, precision: str, images: Tensor, graph: bool) -> list[Work]:
    """The baseline's step and ours, and ours as a `graph`, where it may be one; each returns its loss."""
    trainer = made.trainer(row.trainer, precision, *row.pairs)
    model, losses = row.baseline(trainer)
    labels = (torch.arange(len(images)) % 2).to(images.device)
    batch = batch_of(trainer, images, row.cached)
    baseline = plain_step(model, lambda: losses(images, labels), precision, made.device)
    trainers = [trainer]
    if graph and row.cached:
        trainers.append(made.trainer(row.trainer, precision, *row.pairs, *AS_GRAPH))
    return [baseline, *((lambda own=own: step(own, batch)["loss"]) for own in trainers)]


def measured(row: Row, made: Bench, args: argparse.Namespace) -> list[list[str]]:
    """The lines of a method, one a precision."""
    images = torch.randn(args.batch, 3, *2 * [made.pixels], device=args.device)
    sides = {precision: all_sides(row, made, precision, images, args.graph) for precision in args.precision}
    costs: dict[str, list[list[Cost]]] = {precision: [[] for _ in works] for precision, works in sides.items()}
    losses: dict[str, list[list[Any]]] = {precision: [[] for _ in works] for precision, works in sides.items()}
    for round_ in range(args.rounds + 1):
        for precision, works in sides.items():
            for side, taken, seen in zip(works, costs[precision], losses[precision], strict=True):
                torch.manual_seed(round_)  # both sides draw the same random numbers
                one = cost(lambda side=side, seen=seen: seen.append(side()), args.device, AT_ONCE[args.device])
                taken += [one] * (round_ > 0)
    first, lines = args.precision[0], []
    for precision, (baseline, own, *graph) in costs.items():
        memory = " / ".join(f"{peak_memory(side, args.device) / 1e6:.0f}" for side in sides[precision][:2])
        beside = spread(ratios(costs[first][1], own))
        times = f"{1e3 * median(baseline):.1f}", f"{1e3 * median(own):.1f}", spread(ratios(baseline, own))
        share = str(busy(sides[precision][1], own, args.device))
        apart = max(max(map(float, some)) - min(map(float, some)) for some in zip(*losses[precision], strict=True))
        lines.append([row.title, precision, *times, beside, share, memory, f"{apart:.1e}"])
        for replayed in graph:
            busy_too = busy(sides[precision][2], replayed, args.device)
            lines[-1] += [f"{1e3 * median(replayed):.2f}", spread(ratios(own, replayed)), str(busy_too)]
        if args.graph and not graph:
            lines[-1] += ["-"] * len(GRAPH)
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the rows of each method as soon as they are measured."""
    parser = parser_of(__doc__)
    add_rounds(parser)
    add_step(parser)
    parser.add_argument("--only", default="", help="methods whose row holds this text")
    args = parsed(parser, argv)
    print(f"{described(args.device)}, {args.backbone}, B = {args.batch}, {args.rounds} rounds")
    print(head([name.format(args.precision[0]) for name in HEAD + GRAPH * args.graph]))
    with bench(args.backbone, args.device) as made:
        for row in ROWS:
            if args.only.lower() in row.title.lower():
                print(rows(measured(row, made, args)), flush=True)


if __name__ == "__main__":
    main()
