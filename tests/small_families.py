"""Small models of each family with random weights, saved by the family's own library as it publishes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import helpers_biomed
import helpers_pmc_clip
import helpers_siglip
import pytest
import torch
from helpers_clip import VOCABULARY, tiny_clip_state
from safetensors.torch import save_file

SIDE = 16  # pixels of the small vision transformers, in 2 x 2 patches
LAYERS, WIDTH, JOINT = 1, 64, 16
IMAGES = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def openai_vit(folder: Path) -> Path:
    """A file in OpenAI's layout."""
    state = tiny_clip_state(0, layers=LAYERS, vision_width=WIDTH, embed_dim=JOINT, image_size=SIDE)
    return _saved(state, folder)


def openai_resnet(folder: Path) -> Path:
    """The same with a ResNet, of 32 pixels."""
    return _saved(tiny_clip_state(0, "resnet", layers=LAYERS, embed_dim=JOINT, image_size=32), folder)


def _saved(state: dict[str, torch.Tensor], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def huggingface(folder: Path) -> Path:
    """The folder of a CLIP of transformers, whose text tower has heads of width 32 and GELU."""
    transformers = pytest.importorskip("transformers")
    sides = {"num_hidden_layers": LAYERS, "intermediate_size": 2 * WIDTH, "hidden_size": WIDTH}
    config = transformers.CLIPConfig(
        text_config={**sides, "num_attention_heads": 2, "hidden_act": "gelu", "vocab_size": VOCABULARY,
                     "eos_token_id": VOCABULARY - 1, "bos_token_id": VOCABULARY - 2, "pad_token_id": 1},
        vision_config={**sides, "num_attention_heads": 1, "image_size": SIDE, "patch_size": 8},
        projection_dim=JOINT,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    return folder


def open_clip(folder: Path) -> Path:
    """The folder of an open_clip model, whose towers have GELU."""
    library = pytest.importorskip("open_clip")
    config = {
        "embed_dim": JOINT,
        "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": WIDTH, "heads": 2, "layers": LAYERS},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = library.CLIP(**config)
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    images = {"mean": IMAGES["image_mean"], "std": IMAGES["image_std"]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": images}))
    return folder


def biomed(folder: Path) -> Path:
    """The folder of an open_clip model with a BERT for its text tower and a timm trunk, of 32 pixels, as BiomedCLIP."""
    return helpers_biomed.build(folder, length=40).folder


def siglip(folder: Path) -> Path:
    """The folder of a SigLIP of transformers, of 32 pixels; its tokenizer cuts most words into letters."""
    helpers_siglip.build(folder, length=96, num_hidden_layers=1, num_attention_heads=4)
    return folder


def pmc_clip(folder: Path) -> Path:
    """The folder of a PMC-CLIP, of 32 pixels: a ResNet, and a BERT that sees padding."""
    helpers_pmc_clip.build(folder)
    return folder


# By the name of a family: how a small model of it is made, the name it is loaded by, and the side of its images.
FAMILIES = {
    "openai vit": (openai_vit, "ViT-B/16", SIDE),
    "openai resnet": (openai_resnet, "RN50", 32),
    "huggingface": (huggingface, "PubMedCLIP", SIDE),
    "open_clip": (open_clip, "QuiltNet", SIDE),
    "biomed": (biomed, "BiomedCLIP", 32),
    "siglip": (siglip, "MedSigLIP", helpers_siglip.SIDE),
    "pmc-clip": (pmc_clip, "PMC-CLIP", helpers_pmc_clip.SIDE),
}
RESNETS = ("openai resnet", "pmc-clip")


def keep(hub: Path, name: str, folder: Path, kind: str = "models") -> str:
    """Puts a folder where the client would keep it; the revision."""
    own, revision = hub / f"{kind}--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, own / "snapshots" / revision)
    (own / "refs").mkdir()
    (own / "refs" / "main").write_text(revision)
    return revision
