"""What a step costs on each backbone that is known by name: its size, random weights, its own adapter.

    python benchmarks/sizes.py [--device cuda] [--only BiomedCLIP TinyCLIP] [--rounds 3] [--batch 32] [--small]

A model of each preset's size is drawn at random, written as its family publishes it (config, weights, tokenizer), and
loaded by the preset's name as a run loads it. Then XCoOp and CoOp take steps on cached features, in turns with the same
step on OpenAI's ViT-B/16: two classes, fp32. What the columns are:

* parameters: millions, of both towers.
* memory: MB that a step holds at its peak beyond what it found (weights, features).
* step: how many times longer it takes than on ViT-B/16, round by round: median (range). On a CPU that is the time that
  its threads compute, which others who use the machine do not lengthen; on a GPU on the clock, with milliseconds.

The libraries that a family comes from are needed: pip install 'xcoop[hf,open_clip]'. `--small` makes each of them tiny.
"""

from __future__ import annotations

import json
import re
import string
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import Cost, Work, described, head, in_turns, median, peak_memory, ratios, rows, spread
from safetensors.torch import save_file
from subjects import Bench, add_rounds, add_step, batch_of, parsed, parser_of, step
from torch import Tensor, nn

from xcoop.backbones import ImageFeatures
from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.presets import presets

REFERENCE = "ViT-B/16"
METHODS = ("XCoOp", "CoOp")
HEAD = ("backbone", "parameters", *(f"{name}: {what}" for name in METHODS for what in ("memory, MB", "step")))
STAGES = (3, 4, 6, 3)  # blocks of RN50
BERT_WORDS = 30522  # of PubMedBERT's vocabulary; those that are not written out stand for nothing


class Vit(NamedTuple):
    """The sizes of an image tower."""

    layers: int
    width: int
    heads: int
    patch: int
    pixels: int = 224
    hidden: int = 0  # of the MLPs; 0: four times the width


class Text(NamedTuple):
    """The sizes of a text tower."""

    layers: int
    width: int
    heads: int
    hidden: int = 0


Maker = Callable[[Path, Vit, Text, int], None]


def draw(model: nn.Module) -> dict[str, Tensor]:
    """Random weights for a model on the meta device: N(0, 0.02^2), and norms that do nothing."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
            continue
        norm = tensor.dim() == 1 and name.endswith(("weight", "running_var"))
        state[name] = torch.ones(tensor.shape) if norm else torch.randn(tensor.shape) * 0.02
    return state


def sides(tower: Vit | Text) -> dict[str, int]:
    """A tower's sizes as transformers calls them."""
    return {
        "num_hidden_layers": tower.layers,
        "hidden_size": tower.width,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.hidden or 4 * tower.width,
    }


def clip_of_transformers(folder: Path, image: Vit, text: Text, joint: int) -> None:
    """A folder as transformers saves a CLIP."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={**sides(image), "patch_size": image.patch, "image_size": image.pixels},
        text_config=sides(text),
        projection_dim=joint,
    )
    with torch.device("meta"):
        model = CLIPModel(config)
    config.save_pretrained(folder)
    save_file(draw(model), folder / "model.safetensors")


def siglip_of_transformers(folder: Path, image: Vit, text: Text, joint: int) -> None:
    """A folder as transformers saves a SigLIP; its texts are 64 tokens, however they are cut."""
    from sentencepiece import SentencePieceTrainer
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        vision_config={**sides(image), "patch_size": image.patch, "image_size": image.pixels},
        text_config=sides(text) | {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": joint},
    )
    with torch.device("meta"):
        model = SiglipModel(config)
    config.save_pretrained(folder)
    save_file(draw(model), folder / "model.safetensors")
    words = bank_words()
    options = {"vocab_size": 2000, "hard_vocab_limit": False, "user_defined_symbols": [f"\u2581{one}" for one in words]}
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    prefix = str(folder / "spiece")
    SentencePieceTrainer.train(
        sentence_iterator=iter([string.ascii_lowercase] * 9), model_prefix=prefix, **options, **ids
    )


def clip_of_open_clip(folder: Path, image: Vit, text: Text, joint: int) -> None:
    """A folder as open_clip saves a CLIP."""
    import open_clip

    config = {
        "embed_dim": joint,
        "vision_cfg": {
            "image_size": image.pixels,
            "layers": image.layers,
            "width": image.width,
            "patch_size": image.patch,
            "head_width": image.width // image.heads,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    save_open_clip(folder, config, draw(model))


def bert_of_open_clip(folder: Path, image: Vit, text: Text, joint: int) -> None:
    """A folder as open_clip saves a CLIP of a timm trunk and a BERT, as BiomedCLIP is."""
    from timm.models.vision_transformer import VisionTransformer
    from transformers import BertConfig, BertModel

    bert = BertConfig(vocab_size=BERT_WORDS, max_position_embeddings=512, **sides(text))
    between = (text.width + joint) // 2
    with torch.device("meta"):
        trunk = VisionTransformer(
            image.pixels, image.patch, embed_dim=image.width, depth=image.layers, num_heads=image.heads, num_classes=0
        )
        tower, projection = BertModel(bert, add_pooling_layer=False), nn.Linear(image.width, joint, bias=False)
        layers = nn.Linear(text.width, between, bias=False), nn.GELU(), nn.Linear(between, joint, bias=False)
        model = nn.ModuleDict(
            {
                "visual": nn.ModuleDict({"trunk": trunk, "head": nn.ModuleDict({"proj": projection})}),
                "text": nn.ModuleDict({"transformer": tower, "proj": nn.Sequential(*layers)}),
            }
        )
    config = {
        "embed_dim": joint,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": image.pixels,
        },
        "text_cfg": {
            "hf_model_name": "a BERT",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    }
    save_open_clip(folder, config, draw(model) | {"logit_scale": torch.tensor(1 / 0.07).log()})
    save_bert(folder, bert)


def bank_words() -> list[str]:
    """The words of the concept bank that the steps are made with: each a token, as most are to a medical tokenizer."""
    text = (Path(__file__).parents[1] / "concept_banks" / "pneumonia.yaml").read_text(encoding="utf-8")
    return sorted({*re.findall("[a-z]+", text.lower()), *string.ascii_lowercase})


def pmc_clip(folder: Path, image: Vit, text: Text, joint: int) -> None:
    """The three files of PMC-CLIP, with RN50's image tower, and its BERT's tokenizer."""
    from transformers import BertConfig, BertModel

    bert = BertConfig(vocab_size=BERT_WORDS, max_position_embeddings=512, **sides(text))
    with torch.device("meta"):
        tower, resnet = BertModel(bert), import_clip().model.ModifiedResNet(STAGES, joint, 8, image.pixels, 64)
    torch.save(draw(resnet), folder / "image_encoder(resnet50).pth")
    torch.save(draw(tower), folder / "text_encoder.pth")
    torch.save(torch.randn(text.width, joint) * 0.02, folder / "text_projection_layer.pth")
    save_bert(folder, bert)


def save_bert(folder: Path, config: Any) -> None:
    """The files of a BERT beside its weights; the words of the bank are in its vocabulary."""
    config.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *bank_words()]
    words += [f"[unused{number}]" for number in range(BERT_WORDS - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def resnet_of_openai(folder: Path, image: Vit, text: Text, joint: int) -> None:
    """A file in OpenAI's layout with RN50's image tower, whose sizes those of a ViT do not tell."""
    with torch.device("meta"):
        clip = import_clip().model.CLIP
        model = clip(joint, image.pixels, STAGES, 64, None, 77, 49408, text.width, text.heads, text.layers)
    save_file(draw(model), folder / "weights.safetensors")


def save_open_clip(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Config and weights by the names that open_clip gives the files."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(state, folder / "open_clip_model.safetensors")


VIT_B32, VIT_B16 = Vit(12, 768, 12, 32), Vit(12, 768, 12, 16)
CLIP_TEXT = Text(12, 512, 8)
# Of each preset how its folder is made, and the sizes that it was published with: of PubMedBERT those of BERT base, of
# TinyCLIP those of its name (8 and 3 million parameters without embeddings).
SIZES: dict[str, tuple[Maker, Vit, Text, int]] = {
    "RN50": (resnet_of_openai, Vit(0, 0, 0, 32), CLIP_TEXT, 1024),
    "TinyCLIP": (clip_of_transformers, Vit(10, 256, 4, 16), Text(3, 256, 4), 512),
    "PubMedCLIP": (clip_of_transformers, VIT_B32, CLIP_TEXT, 512),
    "PLIP": (clip_of_transformers, VIT_B32, CLIP_TEXT, 512),
    "QuiltNet": (clip_of_open_clip, VIT_B32, CLIP_TEXT, 512),
    "DermLIP": (clip_of_open_clip, VIT_B16, CLIP_TEXT, 512),
    "BiomedCLIP": (bert_of_open_clip, VIT_B16, Text(12, 768, 12), 512),
    "PMC-CLIP": (pmc_clip, Vit(0, 0, 0, 32), Text(12, 768, 12), 768),
    "MONET": (clip_of_transformers, Vit(24, 1024, 16, 14), Text(12, 768, 12), 768),
    "MedSigLIP": (
        siglip_of_transformers,
        Vit(27, 1152, 16, 14, 448, hidden=4304),
        Text(27, 1152, 16, hidden=4304),
        1152,
    ),
}


def make(name: str, folder: Path, small: bool) -> tuple[Path, int]:
    """Fills a folder with a random model of a backbone's size; what it is loaded from, and the pixels of its images.

    A small one has one layer.
    """
    maker, image, text, joint = SIZES[name]
    if small:
        image, text = image._replace(layers=1, pixels=2 * image.patch), text._replace(layers=1)
    folder.mkdir()
    maker(folder, image, text, joint)
    return (folder if name in presets() else folder / "weights.safetensors"), image.pixels


def step_of(trainer: Any, size: int) -> Work:
    """A step on random features of so many images."""
    features = torch.randn(size, trainer.backbone.embed_dim, device=trainer.device)
    batch = batch_of(trainer, torch.zeros(size, 0), cached=False)
    batch["features"] = ImageFeatures(features, features[:, None][:, :0])
    return lambda: step(trainer, batch)


def measured(name: str, made: Bench, path: Path, pixels: int, references: Mapping[str, Work], args: Any) -> list[str]:
    """A backbone's line."""
    cells: list[str] = []
    count = 0.0
    for method, reference in references.items():
        pairs = ("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.PATH", str(path), "INPUT.SIZE", 2 * [pixels])
        trainer = made.trainer(method, "fp32", *pairs)
        count = sum(parameter.numel() for parameter in trainer.backbone.parameters()) / 1e6
        own = step_of(trainer, args.batch)
        taken = in_turns({REFERENCE: reference, name: own}, args.rounds, args.device)
        if args.device == "cpu":
            taken = {side: [Cost(one.cpu, one.cpu) for one in costs] for side, costs in taken.items()}
        times = spread(ratios(taken[name], taken[REFERENCE]))
        times += f", {1e3 * median(taken[name]):.1f} ms" if args.device == "cuda" else ""
        cells += [f"{peak_memory(own, args.device) / 1e6:.0f}", times]
    return [name, f"{count:.1f} M", *cells]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each row as soon as it is measured."""
    parser = parser_of(__doc__)
    add_rounds(parser)
    add_step(parser)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES), help="backbones; default: all")
    args = parsed(parser, argv)
    small = args.backbone == "small"
    print(f"{described(args.device)}, beside {args.backbone}, B = {args.batch}, {args.rounds} rounds")
    print(head(HEAD), flush=True)
    with tempfile.TemporaryDirectory() as place:
        made = Bench(Path(place), args.backbone, args.device, photos=2)
        references = {method: step_of(made.trainer(method, "fp32"), args.batch) for method in METHODS}
        for name in args.only:
            with tempfile.TemporaryDirectory() as folder:
                path, pixels = make(name, Path(folder) / "model", small)
                print(rows([measured(name, made, path, pixels, references, args)]), flush=True)


if __name__ == "__main__":
    main()
