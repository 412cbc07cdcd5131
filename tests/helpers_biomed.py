"""A BiomedCLIP in small: of open_clip, timm and transformers, with random weights, in a folder as it is published."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from xcoop.backbones import load_backbone
from xcoop.backbones.bert import BertClip

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WHOLE = [
    "an",
    "of",
    "the",
    "with",
    "photo",
    "image",
    "dark",
    "bright",
    "spot",
    "nevus",
    "melanoma",
    "irregular",
    "streaks",
]
INSIDE = ["##oma", "##s", "##in", "##h"]
WORDS = [*SPECIAL, *string.ascii_lowercase, *WHOLE, "carcin", "lesion", "skin", *INSIDE, ",", ".", "-", "'"]
MEAN, STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)


@dataclass
class Small:
    """The library's own model, in evaluation mode, and the folder that it was saved to."""

    model: Any
    folder: Path
    weights: str = "open_clip_pytorch_model.bin"

    def tokens(self, texts: list[str]) -> Tensor:
        """As open_clip's own tokenizer gives them."""
        from open_clip.tokenizer import HFTokenizer

        stated = json.loads((self.folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
        return HFTokenizer(str(self.folder), context_length=stated["context_length"])(texts)


def build(
    folder: Path,
    *,
    pooler: str | None = "cls_last_hidden_state_pooler",
    proj: str | None = "mlp",
    length: int = 24,
    seed: int = 0,
    scales: float | None = None,
    pre_norm: bool = False,
    act: str = "gelu",
) -> Small:
    """A BERT of two layers (W 48, three heads, MLPs of width 80), a trunk of two (V 96, 32 px, 4 x 4), D 40.

    Args:
        folder: made, and filled.
        pooler: open_clip's `hf_pooler_type`.
        proj: open_clip's `hf_proj_type`; None: none, and D is W.
        length: of the texts.
        seed: the same seed gives the same weights.
        scales: how the trunk's layer scales start; None: it has none.
        pre_norm: whether the trunk has a norm before its blocks, as CLIP's have.
        act: the BERT's activation.
    """
    transformers, timm = pytest.importorskip("transformers"), pytest.importorskip("timm")
    hf, image = pytest.importorskip("open_clip.hf_model"), pytest.importorskip("open_clip.timm_model")
    open_clip = pytest.importorskip("open_clip")
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(str(folder))
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80,
        max_position_embeddings=40, hidden_act=act, layer_norm_eps=1e-3,
    )  # fmt: skip
    (folder / "config.json").write_text(config.to_json_string())
    width = 48 if proj is None else 40
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = hf.HFTextEncoder(str(folder), width, pooler_type=pooler, proj_type=proj, pretrained=False)
        model = open_clip.model.CustomTextCLIP.__new__(open_clip.model.CustomTextCLIP)
        nn.Module.__init__(model)
        visual = image.TimmModel("vit_tiny_patch16_224", width, pool="", proj="linear")
        visual.trunk = timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=96, depth=2, num_heads=3, num_classes=0, pre_norm=pre_norm,
            init_values=scales, norm_layer=partial(nn.LayerNorm, eps=1e-5 if pre_norm else 1e-6),
        )  # fmt: skip
        visual.head.proj = nn.Linear(96, width, bias=False)
        model.visual, model.text = visual, text
        model.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                shift = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
                nn.init.normal_(parameter, shift, 0.2 if parameter.dim() == 1 else parameter[0].numel() ** -0.5)
    stated = {
        "model_cfg": {
            "embed_dim": width,
            "vision_cfg": {
                "timm_model_name": "vit_tiny_patch16_clip_224" if pre_norm else "vit_tiny_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 32,
            },
            "text_cfg": {
                "hf_model_name": "nobody/a-small-bert",
                "hf_tokenizer_name": "nobody/a-small-bert",
                "hf_proj_type": proj,
                "hf_pooler_type": pooler,
                "context_length": length,
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return Small(model.eval(), folder)


def load(folder: Path) -> BertClip:
    """The backbone in a folder, as a config that names it gets it."""
    cfg = CfgNode({"MODEL": {"BACKBONE": {"NAME": "open_clip", "PATH": str(folder)}}})
    backbone = load_backbone(cfg)
    assert isinstance(backbone, BertClip)
    return backbone
