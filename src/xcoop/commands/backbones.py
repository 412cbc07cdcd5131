"""`xcoop backbones`: which there are and under which terms, and whether one's weights load, classify and train here."""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.utils.console import FAILED, UserError, escaped, say, to_paste

if TYPE_CHECKING:
    from torch import Tensor

    from xcoop.backbones import Backbone

# What is drawn, and the sentence about it: `xcoop.phantom` has both kinds.
PICTURES = {"derm": "dermoscopic photo of a skin lesion", "chest": "chest x-ray of a patient"}
TEMPLATE = "a {}."
EACH, DRAWN = 2, 224  # pictures of a kind, and pixels a side that they are drawn in
STEPS, RATE = 2, 0.002  # of CoOp; the rate is its release's
LONGEST = 40  # characters of a cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, and their options."""
    kinds = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    _add(kinds, "list", "all backbones: whose adapter reads them, licence, and whether weights are here", show_list)
    info = _add(kinds, "info", "all that is known of a backbone", show_info)
    info.add_argument("name", metavar="NAME", help="as in `xcoop backbones list`")
    check = _add(kinds, "check", "load a backbone, classify drawn pictures by text, train two steps of CoOp", check_one)
    check.add_argument("--path", default="", help="its file or folder of weights; else they are looked for and fetched")
    check.add_argument("--device", default="", help="cpu, cuda, ... (default: a GPU if there is one)")
    pairs = "config keys, e.g. MODEL.BACKBONE.SOURCE owner/name"
    check.add_argument(
        "words", nargs="+", metavar="NAME [KEY VALUE ...]", help=f"as in `xcoop backbones list`; {pairs}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the sub-command that was named; the exit code."""
    return int(arguments.action(arguments))


def _add(kinds: Any, name: str, what: str, action: Any) -> Any:
    one = kinds.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    one.set_defaults(action=action, own_parser=one)
    return one


# What there is.


def show_list(arguments: argparse.Namespace) -> int:
    """Prints one row a backbone."""
    from tabulate import tabulate

    from xcoop.backbones import backbone_names

    rows = [[textwrap.shorten(cell, LONGEST, placeholder=" ...") for cell in _row(name)] for name in backbone_names()]
    say(tabulate(rows, headers=["name", "read by", "architecture", "licence", "here"], disable_numparse=True))
    more = to_paste("xcoop", "backbones", "info", "NAME")
    say("", f"here: in the place where the client that fetches it keeps it. More: {more}")
    return 0


def _row(name: str) -> list[str]:
    from xcoop.backbones.openai import PUBLISHED, described
    from xcoop.backbones.presets import presets

    if preset := presets().get(name):
        read_by = preset.family or "(not read)"
        return [name, read_by, preset.architecture, preset.licence, _yes(in_hub_cache(preset.hub))]
    if name in PUBLISHED:
        here = openai_file(name).is_file()
        return [name, "openai", described(*PUBLISHED[name]).partition(";")[0], "MIT", _yes(here)]
    if name == "phantom":
        return [name, "phantom", "small CLIP on drawn images", "as this package", "yes"]
    return [name, name, "(any, at MODEL.BACKBONE.PATH or SOURCE)", "its own", ""]


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def openai_file(name: str) -> Path:
    """Where OpenAI's weights of that name lie once they were fetched."""
    from xcoop.backbones.clip_model import FOLDER, import_clip

    urls: dict[str, str] = import_clip().clip._MODELS
    return Path(FOLDER).expanduser() / urls.get(name, name).rpartition("/")[2]


def in_hub_cache(hub: str) -> bool:
    """Whether the hub's client has kept anything of a model."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return False
    folder = hub if hub.startswith("datasets/") else f"models/{hub}"
    return any((Path(HF_HUB_CACHE) / folder.replace("/", "--") / "snapshots").glob("*/*"))


def show_info(arguments: argparse.Namespace) -> int:
    """Prints all facts."""
    from xcoop.backbones import require_backbone
    from xcoop.backbones.presets import presets

    name = arguments.name
    require_backbone(name)
    preset = presets().get(name)
    if preset is None:
        labels = ("Read by", "Architecture", "Licence", "Here")
        say(name, *(f"  {label}: {cell}" for label, cell in zip(labels, _row(name)[1:], strict=True) if cell))
        return 0
    facts = {
        "Read by": preset.family or f"nothing: {preset.unread}",
        "Architecture": preset.architecture,
        "Images": f"{preset.size} x {preset.size}" if preset.size else "",
        "Tokens": str(preset.length or ""),
        "Weights": f"https://huggingface.co/{preset.hub}",
        "Here": _yes(in_hub_cache(preset.hub)),
        "Licence": preset.licence,
        "Cite": preset.citation,
        "Found in": preset.found,
    }
    say(name, *(f"  {label}: {fact}" for label, fact in facts.items() if fact))
    return 0


# Whether one works.


def check_one(arguments: argparse.Namespace) -> int:
    """Loads, classifies and trains, a line each; `FAILED` if a number is not finite or nothing is learned."""
    import torch

    from xcoop.backbones import load_backbone
    from xcoop.backbones.presets import presets
    from xcoop.config.merge import merge_pairs
    from xcoop.config.plugins import get_cfg

    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH = arguments.words[0], arguments.path
    merge_pairs(cfg, arguments.words[1:])
    device = _device(arguments.device)
    start = time.perf_counter()
    backbone = load_backbone(cfg).to(device)
    seconds = time.perf_counter() - start
    preset = presets().get(backbone.name)
    if preset and preset.size != backbone.input_size:
        say(f"note: {backbone.name} was published for {preset.size} pixels, this has {backbone.input_size}")
    architecture = getattr(backbone, "architecture", type(backbone).__name__)
    sha, source = backbone.fingerprint()[:12], escaped(backbone.source or "what comes with this package")
    say(f"loaded: {backbone.name}, {architecture}; SHA-256 {sha}; from {source}; {seconds:.1f} s")
    images = draw_pictures(backbone).to(device)  # (N, 3, S, S)
    labels = torch.arange(len(PICTURES), device=device).repeat_interleave(EACH)  # (N,)
    right, sound = classify(backbone, images, labels)
    told = "a skin lesion or a chest x-ray? Weights trained on real images should know"
    say(f"classified: {right} of {len(labels)} drawn pictures by text ({told})")
    losses = train(backbone, images, labels)
    say(f"trained: {STEPS} steps of CoOp, loss {' -> '.join(f'{loss:.6f}' for loss in losses)}")
    finite = all(map(math.isfinite, losses))
    moved = len(set(losses)) > 1
    if sound and finite and moved:
        say("Verdict: it works.")
        return 0
    why = "the features are not finite" if not sound else "the loss is not finite" if not finite else "nothing changes"
    say(f"Verdict: it does not work: {why}.")
    return FAILED


def _device(asked: str) -> Any:
    import torch

    try:
        return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {asked}: {str(error).splitlines()[0]}") from error


def draw_pictures(backbone: Backbone) -> Tensor:
    """`EACH` drawn pictures of each kind as the backbone takes them, (N, 3, S, S) on the CPU."""
    import torch
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    from xcoop.phantom.corpus import Case, draw_case

    side = backbone.input_size
    cases = [Case(kind, "check", 0, index, DRAWN) for kind in PICTURES for index in range(EACH)]
    drawn = (Image.fromarray(draw_case(case)[0]) for case in cases)
    pixels = torch.stack([pil_to_tensor(one.resize((side, side), Image.Resampling.BICUBIC)) for one in drawn]) / 255
    mean, std = (torch.tensor(side)[:, None, None] for side in (backbone.pixel_mean, backbone.pixel_std))
    return (pixels - mean) / std


def classify(backbone: Backbone, images: Tensor, labels: Tensor) -> tuple[int, bool]:
    """How many pictures are nearest to the sentence of their kind, and whether all features are finite."""
    import torch

    from xcoop.methods.alignment import unit

    with torch.no_grad():
        text = unit(backbone.encode_text([TEMPLATE.format(what) for what in PICTURES.values()]))  # (C, D)
        cosines = unit(backbone.encode_image(images).pooled) @ text.T  # (N, C)
    return int((cosines.argmax(1) == labels).sum()), bool(torch.isfinite(cosines).all())


def train(backbone: Backbone, images: Tensor, labels: Tensor) -> list[float]:
    """The loss of CoOp on the pictures before each step, and after the last."""
    import torch
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.config.plugins import get_cfg
    from xcoop.methods.model import Task

    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.TRAINER.COOP.N_CTX = 4
    task = Task(list(PICTURES.values()), n_train=len(labels))
    model = TRAINER_REGISTRY.get("CoOp").build_method(cfg, backbone, task).to(labels.device)
    features = model.encode_images(images)
    optimiser = torch.optim.SGD(model.parameter_groups(RATE), lr=RATE)
    losses = []
    for step in range(STEPS + 1):
        loss = model.loss(model.losses(features, labels))
        losses.append(loss.item())
        if step < STEPS:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return losses
