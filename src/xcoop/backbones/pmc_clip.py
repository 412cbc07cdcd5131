"""PMC-CLIP: a ResNet of CLIP's kind and a BERT, in three files without a config, from a folder or the hub.

The files do not say how they compute; their authors' notebook does (linked in WeixiongLin/PMC-CLIP, README), and it is
followed here, as the code of those who benchmark it follows it (HealthX-Lab/BiomedCoOp at 7ceb5a8): eight heads in the
ResNet's pool, the BERT's own pool (tanh of a linear map of [CLS]) times a matrix, and exp(4.4292) for the scale. As in
that notebook and in the authors' training, the BERT gets no mask: it sees the padding that fills a text up to 77
tokens. The training code speaks of 32 heads, and of [CLS] itself in the place of the pool; `MODEL.BACKBONE.HEAD_WIDTH
64` gives 32 heads.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from xcoop.backbones.base import Backbone, Wanted, register_backbone
from xcoop.backbones.bert import build_bert_clip
from xcoop.backbones.bert_config import read_bert
from xcoop.backbones.hub import hub_folder
from xcoop.backbones.making import Making, Tower
from xcoop.backbones.model_folder import read_weights
from xcoop.backbones.weight_files import read_tensor
from xcoop.backbones.wordpieces import VOCABULARY, WHOLE, read_word_pieces

logger = logging.getLogger(__name__)

IMAGE, TEXT, PROJECTION = "image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"
FILES = (IMAGE, TEXT, PROJECTION)
WORDS = ("config.json", VOCABULARY, WHOLE, "tokenizer_config.json")
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"  # its tokenizer, and how its tower computes
HEADS, LENGTH, SCALE = 8, 77, 4.4292


def _found(name: str, wanted: Wanted) -> tuple[Path, Path, str]:
    """Folders of the weights and of the tokenizer, and what the record says of them; fetched if they are not here."""
    if wanted.path:
        folder = words = Path(wanted.path).expanduser()
        source = str(folder)
        if missing := [file for file in FILES if not (folder / file).is_file()]:
            raise FileNotFoundError(f"{folder} has no {', '.join(missing)}: PMC-CLIP is {', '.join(FILES)} in a folder")
        if not any((folder / file).is_file() for file in (VOCABULARY, WHOLE)):
            raise FileNotFoundError(
                f"{folder} has neither {VOCABULARY} nor {WHOLE}, the tokenizer of PMC-CLIP's BERT: on a machine with "
                f"network, `hf download {BERT} {VOCABULARY} config.json --local-dir {folder.name}`"
            )
    elif wanted.source:
        folder = hub_folder(wanted.source, (FILES,), lambda place: all((place / file).is_file() for file in FILES))
        words = hub_folder(BERT, (WORDS,), lambda place: any((place / file).is_file() for file in (VOCABULARY, WHOLE)))
        source = f"{wanted.source} at {folder.name[:12]}"
    else:
        raise ValueError(f"{name}: set MODEL.BACKBONE.PATH to the folder with {', '.join(FILES)}")
    return folder, words, source


@register_backbone("pmc_clip", fetch=_found)
def load_pmc_clip(name: str, wanted: Wanted) -> Backbone:
    """The three files in a folder (`MODEL.BACKBONE.PATH`), or of a name on the hub (`MODEL.BACKBONE.SOURCE`).

    In a folder, the BERT's tokenizer lies beside them; else it is looked for where the BERT is on the hub.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: `tokenizers` is not installed.
        ValueError: the files do not fit each other, or are no such towers.
        ConnectionError: they are not here and cannot be fetched.
    """
    folder, words, source = _found(name, wanted)
    making = Making(image=Tower(heads=HEADS), family="PMC-CLIP", source=source)
    making = making.stated(wanted.activation, wanted.head_width)
    text = {"hf_model_name": BERT, "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear", "context_length": LENGTH}
    bert = replace(read_bert(words, text, source), sees_padding=True)
    image = {f"visual.{key}": tensor for key, tensor in read_weights(folder, folder / IMAGE, ()).items()}
    image["logit_scale"] = torch.tensor(SCALE)
    tower = {f"transformer.{key}": tensor for key, tensor in read_weights(folder, folder / TEXT, ()).items()}
    projection = read_tensor(folder / PROJECTION)
    if projection.dim() != 2:
        raise ValueError(f"{folder / PROJECTION} holds a tensor of shape {tuple(projection.shape)}, not a matrix")
    tower["proj.weight"] = projection.t()
    backbone = build_bert_clip(name, image, tower, read_word_pieces(words), bert, making)
    logger.info("%s holds %s", source, backbone.architecture)
    return backbone
