"""The memory and the time of a CoCoOp step by how many prompts are encoded at once (TRAINER.COCOOP.SEQUENCES).

    python benchmarks/cocoop_memory.py [--device cuda] [--precision bf16] [--sequences 512 256] [--small]

32 images of 100 classes, 16 context tokens, ViT-B/16's text tower with random weights: 3,200 prompts a step, each of
its image. Forward, backward and one SGD step from image features. "activations" are what the backward pass of the
prompts that are encoded at once needs; "memory" is what a step holds at its peak beyond the weights: of
`torch.cuda.max_memory_allocated` on a GPU, of the process (Linux) on a CPU, whose allocator keeps more than is in use.
"time" is that of the step whose memory was measured, beside the first row's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from measuring import described, head, peak_memory, rows, wait
from subjects import PRECISIONS, parsed, parser_of, random_clip
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.backbones.openai import ClipBackbone
from xcoop.config.plugins import get_cfg
from xcoop.engine.parts import number_formats
from xcoop.trainers.cocoop import CoCoOpModel

C, N_CTX = 100, 16


def saved_for_backward(model: CoCoOpModel, features: ImageFeatures) -> int:
    """Bytes that the logits of a batch hold for the backward pass, beside the model's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        logits = model.logits(features)  # while these live, so does what they hold, and no two share an address
    return sum(held.values()) if logits.requires_grad else 0


def measured(size: str, batch: int, sequences: int, precision: str, device: str) -> tuple[float, float, float]:
    """Of one step: bytes of the activations of a part, bytes in all, and seconds."""
    settings = get_cfg().TRAINER.COCOOP
    settings.merge_from_list(["SEQUENCES", sequences, "N_CTX", N_CTX])
    backbone = ClipBackbone(size, random_clip(size)).to(device)
    model = CoCoOpModel(backbone, [f"class {c:02d}" for c in range(C)], settings).to(device)
    features, labels = drawn(batch, backbone), torch.arange(batch, device=device) % C
    optimiser = torch.optim.SGD(model.trained_parameters().values(), lr=1e-4, momentum=0.9)
    dtype, scaler = number_formats(precision, torch.device(device))

    def step() -> None:
        with model.computing_in(dtype):
            loss = model.loss(model.losses(features, labels))
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    with model.computing_in(dtype):
        held = saved_for_backward(model, drawn(min(batch, model.images_at_once), backbone))
    if device == "cuda":
        step()  # loads kernels, and takes their workspace
    start = time.perf_counter()
    memory = peak_memory(step, device)
    wait(device)
    return held, memory, time.perf_counter() - start


def drawn(batch: int, backbone: ClipBackbone) -> ImageFeatures:
    """Features of images that nobody encoded."""
    pooled = torch.randn(batch, backbone.embed_dim, device=backbone.logit_scale.device)
    return ImageFeatures(pooled, pooled[:, None][:, :0])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row a setting."""
    parser = parser_of(__doc__)
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--sequences", type=int, nargs="+", default=[512, 256])
    args, first = parsed(parser, argv), 0.0
    print(
        f"{described(args.device)}, {args.backbone}, {args.precision}, B = {args.batch}, {C} classes, "
        f"{N_CTX} context tokens"
    )
    print(head(["prompts at once", "activations of a part, GB", "memory, GB", "time, beside the first"]))
    for sequences in args.sequences:
        held, memory, seconds = measured(args.backbone, args.batch, sequences, args.precision, args.device)
        first = first or seconds
        print(rows([[sequences, f"{held / 1e9:.2f}", f"{memory / 1e9:.2f}", f"{seconds / first:.2f}"]]), flush=True)


if __name__ == "__main__":
    main()
