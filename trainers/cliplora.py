"""CLIP-LoRA: low-rank changes of the attention in both towers (Zanella and Ben Ayed, CVPRW 2024, arXiv 2405.18541).

In each block of the text tower and of the vision transformer, queries, keys and values (p = 1, 2, 3) are

    W_p x + b_p + gamma B_p A_p d(x)        gamma = ALPHA / sqrt(R),  A_p (R, V),  B_p (V, R)

W, b: the frozen projections, as all else in CLIP. d: dropout of DROPOUT, with a mask of its own for each of the three,
in training only. A starts uniform in (-1 / sqrt(V), 1 / sqrt(V)), B at zero, so that the start is zero-shot CLIP. The
loss is the cross entropy of CLIP's logits s cos(f(image), t_c), t_c the feature of a sentence with the class's name; no
prompt is learned. Images and sentences pass both towers in every step.

The arithmetic is that of the released code (MaxZanella/CLIP-LoRA at 358f0d7): gamma, the start, dropout and the three
projections in loralib/layers.py:41-42, 63-68, 186-208 and 399-417, the loss in lora.py:92-113. (LoRA itself, Hu et al.,
arXiv 2106.09685, has gamma = ALPHA / R; there that line is commented out.) `vit.yaml` has the released settings
(run_utils.py:25-36, lora.py:75-76, main.py:38-43): rank 2, alpha 1, dropout 0.25, AdamW at 0.0002 with a decay of 0.01
and a cosine without warm-up, batches of 32, images cropped and flipped, 16-bit autocast. There a training has 500 steps
times the shots (lora.py:73), whatever an epoch is: `OPTIM.MAX_EPOCH` = 500 shots / (batches in an epoch). The file's
500 epochs are so many at one shot of up to 32 classes.

On the phantom's backbone the released rate moves nothing in 50 epochs. `phantom.yaml` has the best of three settings
(AdamW at 0.005 and 0.02, SGD at 1) on the whole validation splits of four sets at 1, 4 and 16 shots, one seed: AdamW at
0.005, mean balanced accuracy 75.3 (72.7 and 72.4). Four lower rates (AdamW 0.0002, 0.001, SGD 0.01, 0.1) had fallen
far behind it on X-rays at 1 and 4 shots and were given up. Of the twelve other settings in benchmarks/tune.py none was
better. Phantoms are not clinical.

Differences: s is the backbone's (there 100, as in OpenAI's weights); the rate falls after each epoch, to 0 (there,
after each step, to 1e-6); every block is changed (there, that is the default of a choice). With CLINICAL a class has
the clinical sentences of the concept bank, whose unit features are averaged.
Symbols: C classes, N sentences, L tokens, V width of a tower (W of the text tower), R rank, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from xcoop.backbones import Backbone
from xcoop.backbones.openai import ClipBackbone, require_vit
from xcoop.concepts.sentences import bank_sentences
from xcoop.config.plugins import register_trainer
from xcoop.methods.alignment import unit
from xcoop.methods.model import ClassVector, PromptModel, Task
from xcoop.methods.prompts import fill
from xcoop.training.trainer import PromptTrainer
from xcoop.utils.rules import number, whole

DEFAULTS = CfgNode(
    {
        "TEMPLATE": "",  # with {} for the class name; "" is the dataset's `template`, else "a photo of a {}."
        "CLINICAL": False,  # the clinical sentences of the concept bank in the place of class names
        "PREC": "amp",  # fp32, amp, fp16, bf16, auto
        "R": 2,  # rank of the changes
        "ALPHA": 1.0,  # their weight, before it is divided by the root of R
        "DROPOUT": 0.25,  # share of a block's input that the changes do not see in a step
    }
)
RULES = {"R": whole(1), "ALPHA": number(above=0), "DROPOUT": number(0, below=1)}


class LowRank(nn.Module):
    """gamma B_p A_p d(x): what is added to queries, keys and values of one block.

    Args:
        width: V, of the tower.
        settings: the trainer's node.
    """

    def __init__(self, width: int, settings: CfgNode) -> None:
        super().__init__()
        self.dropout = float(settings.DROPOUT)
        self.gamma = settings.ALPHA * settings.R**-0.5
        self.A = nn.Parameter(torch.empty(3, settings.R, width).uniform_(-(width**-0.5), width**-0.5))
        self.B = nn.Parameter(torch.zeros(3, width, settings.R))

    def forward(self, x: Tensor) -> Tensor:
        """Of a block's input (..., V) the three changes, packed: (..., 3 V)."""
        seen = F.dropout(x.expand(3, *x.shape), self.dropout, self.training)  # (3, ..., V)
        down = torch.einsum("p...v,prv->p...r", seen, self.A)  # (3, ..., R)
        return self.gamma * torch.einsum("p...r,pvr->...pv", down, self.B).flatten(-2)


class CLIPLoRAModel(PromptModel):
    """Low-rank matrices of all blocks, and the sentences of the classes.

    Args:
        backbone: frozen, with a ViT.
        classnames: C names.
        sentences: one or more of each class.
        settings: the trainer's node.

    Raises:
        ValueError: the backbone's image tower is no ViT.
    """

    image_tower_frozen = False
    class_vector = ClassVector(
        "text feature",
        learned=True,
        about="This method learns no prompt: small changes of the attention in both towers alter the feature of a "
        "class's fixed sentences, and those of all images.",
    )
    backbone: ClipBackbone
    embeddings: Tensor
    end: Tensor

    def __init__(
        self, backbone: Backbone, classnames: list[str], sentences: Sequence[Sequence[str]], settings: CfgNode
    ) -> None:
        clip = require_vit(backbone, "CLIPLoRA")
        super().__init__(backbone, classnames)
        W, V = clip.text_width, clip.model.visual.conv1.out_channels
        self.text = nn.ModuleList(LowRank(W, settings) for _ in clip.model.transformer.resblocks)
        self.image = nn.ModuleList(LowRank(V, settings) for _ in clip.image_blocks)
        self.counts = [len(each) for each in sentences]
        tokens = clip.tokenize([sentence for each in sentences for sentence in each]).to(clip.logit_scale.device)
        with torch.no_grad():
            self.register_buffer("embeddings", clip.embed(tokens), persistent=False)  # (N, L, W)
        self.register_buffer("end", clip.end_positions(tokens), persistent=False)  # (N,)

    @property
    def image_backbone(self) -> ClipBackbone:
        """The backbone with the changes in both towers."""
        return self.backbone.with_added(list(self.text), list(self.image))

    def text_features(self) -> Tensor:
        """Of the sentences of each class the mean unit feature, (C, D)."""
        features = unit(self.image_backbone.encode_embeddings(self.embeddings, self.end))  # (N, D)
        return torch.stack([each.mean(0) for each in features.split(self.counts)])

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(self.trained_parameters().values()), "lr": lr, "name": "low-rank matrices"}]


@register_trainer("CLIPLORA", DEFAULTS, RULES)
class CLIPLoRA(PromptTrainer):
    """Trains the low-rank matrices."""

    needs_vit = True

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        """Clinical sentences come from the bank."""
        return bool(cfg.TRAINER.CLIPLORA.CLINICAL)

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        settings = cfg.TRAINER.CLIPLORA
        template = settings.TEMPLATE or task.template
        sentences = [[fill(template, name)] for name in task.classnames]
        if task.bank is not None:
            sentences = bank_sentences(backbone, task.bank)
        return CLIPLoRAModel(backbone, task.classnames, sentences, settings)
