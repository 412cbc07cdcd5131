"""Prompts: hand-written ones, what frozen CLIP makes of them and teaches, and learned contexts round a class name.

Symbols: B images, C classes, K prompts a class, N sentences a class, n context tokens, L tokens, W text width, D joint
width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones import Backbone
from xcoop.methods.alignment import unit

logger = logging.getLogger(__name__)

AT_ONCE = 256  # sentences that are encoded together

# Hand-written sentences for a class name, with {} where it goes: generic ones, which say how a picture was taken, after
# the manner of the ensembles of CLIP (Radford et al., ICML 2021, section 3.1.4; those of objects, art and toys have no
# place here), and ones that speak of medical images.

DEFAULT = "a photo of a {}."

GENERIC = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a blurry photo of a {}.",
    "a sharp photo of the {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo in which a {} is hard to see.",
    "a picture of a typical {}.",
)

MEDICAL = (
    "a medical image of a {}.",
    "a clinical photo of a {}.",
    "a scan that shows {}.",
    "a medical scan of a patient with {}.",
    "a diagnostic image of {}.",
    "an image from a patient diagnosed with {}.",
    "a case of {}.",
    "a textbook example of {}.",
    "an early stage of {}.",
    "an advanced stage of {}.",
    "a magnified view of {}.",
    "findings consistent with {}.",
    "signs of {} in a medical image.",
    "the typical appearance of {}.",
)

ALL = GENERIC + MEDICAL

# Sixty of the eighty that CLIP's authors wrote for ImageNet (Radford et al., as above), put together from the ways of
# showing something and the determiners that they cross: PromptSRC's frozen text is their mean
# (muzairkhattak/PromptSRC at bb95c77).
_BOTH = ("bad photo", "blurry photo", "bright photo", "close-up photo", "cropped photo", "low resolution photo",
         "pixelated photo", "doodle", "painting", "rendering", "rendition", "sculpture", "sketch")  # fmt: skip
_WITH_A = ("a drawing", "a jpeg corrupted photo", "a tattoo", "art", "graffiti")
_WITH_THE = ("a black and white photo", "a dark photo", "a good photo", "itap")
_PHOTO_OF = ("a", "the", "one", "my", "many", "a clean", "the clean", "a dirty", "the dirty", "a hard to see",
             "the hard to see", "the cool", "a large", "a nice", "a weird")  # fmt: skip
_MADE_OF = ("a embroidered", "the embroidered", "a origami", "the origami", "a plastic", "the plastic", "a cartoon",
            "the toy")  # fmt: skip
IMAGENET = (
    *(f"a {manner} of {which} {{}}." for manner in _BOTH for which in ("a", "the")),
    *(f"{manner} of a {{}}." for manner in _WITH_A),
    *(f"{manner} of the {{}}." for manner in _WITH_THE),
    *(f"a photo of {which} {{}}." for which in _PHOTO_OF),
    *(f"{which} {{}}." for which in _MADE_OF),
    *(f"{which} {{}} in a video game." for which in ("a", "the")),
)


def fill(template: str, classname: str) -> str:
    """A template with a class name in place; underscores stand for spaces."""
    return template.replace("{}", classname.replace("_", " "))


@torch.no_grad()
def sentence_features(backbone: Backbone, sentences: Sequence[Sequence[str]], raw: bool = False) -> Tensor:
    """Features of the sentences of each class.

    Args:
        backbone: encodes them.
        sentences: N for each of C classes.
        raw: as they come out of the text tower, instead of unit.

    Returns:
        (C, N, D).
    """
    texts = [text for row in sentences for text in row]
    parts = [backbone.encode_text(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
    features = torch.cat(parts)
    return (features if raw else unit(features)).unflatten(0, (len(sentences), -1))


def template_features(
    backbone: Backbone, templates: Sequence[str], classnames: Sequence[str], raw: bool = False
) -> Tensor:
    """Features of each class's name in each of N templates: (C, N, D), unit unless `raw`."""
    return sentence_features(backbone, [[fill(template, name) for template in templates] for name in classnames], raw)


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far a student's class probabilities are from a teacher's: T^2 KL(teacher || student), mean of the images.

    Both are softened, softmax(logits / T); T^2 keeps the gradient's size (Hinton et al., arXiv 1503.02531).

    Args:
        student: logits, (B, C).
        teacher: logits, (B, C); no gradient reaches them.
        temperature: T > 0.

    Returns:
        A scalar, >= 0.
    """
    ours = F.log_softmax(student / temperature, dim=1)
    theirs = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


# Learned contexts. The layout is CoOp's (Zhou et al., IJCV 2022, arXiv 2109.01134): `[start] context name . [end]`,
# with the name at the end, in the middle or at the front of the context.

POSITIONS = ("end", "middle", "front")


def random_context(*shape: int) -> Tensor:
    """Context vectors (..., n, W) drawn from N(0, 0.02^2), as CLIP's own token embeddings and CoOp's contexts start."""
    return torch.empty(*shape).normal_(std=0.02)


def context_from_words(backbone: Backbone, words: str) -> Tensor:
    """The token embeddings of some words, (n, W); n is how many tokens they make. Underscores stand for spaces."""
    words = words.replace("_", " ")
    n = backbone.count_tokens(words) - 2  # without start and end
    with torch.no_grad():
        return backbone.embed(_tokens(backbone, [words]))[0, 1 : 1 + n].clone()


def start_context(backbone: Backbone, words: str, n_ctx: int, *leading: int) -> Tensor:
    """The context that CoOp's keys ask for: the words of CTX_INIT, or random vectors.

    Args:
        backbone: gives tokenizer, embeddings and width.
        words: CTX_INIT; "" for random vectors.
        n_ctx: N_CTX; words decide for themselves how many tokens they are.
        leading: for random vectors, the axes before (n, W), e.g. C for class-specific contexts.
    """
    if not words:
        return random_context(*leading, n_ctx, backbone.text_width)
    context = context_from_words(backbone, words)
    if len(context) != n_ctx:
        logger.info("CTX_INIT %r makes %d context tokens; N_CTX %d is not used", words, len(context), n_ctx)
    return context


class PromptLearner(nn.Module):
    """Contexts to be learned, in place between start token and class name.

    Args:
        backbone: gives tokens and their embeddings; it is not kept.
        classnames: underscores stand for spaces.
        context: where the context starts: (n, W) one for all classes, (C, n, W) one a class, or (K, C, n, W); also
            (K, 1, n, W), K for all classes.
        position: of the class name: after the context (`end`), in its `middle`, or before it (`front`).
        full_length: keep all 77 positions; otherwise those up to the last end token.

    Raises:
        ValueError: an unknown position, a context that doesn't fit the classes, or a prompt that is too long.
    """

    ctx: nn.Parameter
    token_prefix: Tensor
    token_suffix: Tensor
    end: Tensor
    order: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        context: Tensor,
        position: str = "end",
        full_length: bool = False,
    ) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(f"class token position {position!r}; known: {', '.join(POSITIONS)}")
        if context.dim() > 2 and context.shape[-3] not in (1, len(classnames)):
            raise ValueError(f"context of shape {tuple(context.shape)} for {len(classnames)} classes")
        self.position = position
        self.ctx = nn.Parameter(context.detach().clone())
        # What stands round the context: the start token, and names, full stops and end tokens.
        n_ctx = context.shape[-2]
        placeholders = " ".join([backbone.placeholder] * n_ctx)  # one token each; the context takes their places
        names = [name.replace("_", " ") for name in classnames]
        tokens = _tokens(backbone, [f"{placeholders} {name}." for name in names])  # (C, 77)
        end = backbone.end_positions(tokens)  # (C,)
        length = tokens.shape[1] if full_length else int(end.max()) + 1
        with torch.no_grad():
            embeddings = backbone.embed(tokens)[:, :length]  # (C, L, W)
        order = [_order(position, n_ctx, backbone.count_tokens(name) - 2, length) for name in names]
        # CoOp's names for the first two; they are made anew from the class names, never stored.
        self.register_buffer("token_prefix", embeddings[:, :1].clone(), persistent=False)  # (C, 1, W)
        self.register_buffer("token_suffix", embeddings[:, 1 + n_ctx :].clone(), persistent=False)
        self.register_buffer("end", end, persistent=False)
        self.register_buffer("order", torch.tensor(order, device=end.device), persistent=False)  # (C, L)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The prompts as embeddings, (..., L, W), and where their end tokens stand, (...,).

        The leading axes are (C,), or (K, C) for K prompts a class.
        """
        return self.assemble(self.ctx)

    def assemble(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Puts a context in place.

        Args:
            context: (n, W), or (..., C or 1, n, W).

        Returns:
            Embeddings (..., C, L, W) and the positions of their end tokens (..., C).
        """
        leading = (*context.shape[:-3], len(self.end))  # (..., C)
        context = context.expand(*leading, *context.shape[-2:])
        prefix = self.token_prefix.expand(*leading, -1, -1)
        suffix = self.token_suffix.expand(*leading, -1, -1)
        prompts = torch.cat([prefix, context, suffix], dim=-2)  # (..., C, L, W), the name at the end
        if self.position != "end":
            index = self.order[..., None].expand(prompts.shape)
            prompts = prompts.gather(-2, index)
        return prompts, self.end.expand(leading)


def _tokens(backbone: Backbone, texts: list[str]) -> Tensor:
    """Token ids (N, 77) where the backbone is."""
    return backbone.tokenize(texts).to(backbone.logit_scale.device)


def _order(position: str, n_ctx: int, n_name: int, length: int) -> list[int]:
    """Which place of `[start] context name rest` comes at each place of the prompt."""
    context = list(range(1, 1 + n_ctx))
    name = list(range(1 + n_ctx, 1 + n_ctx + n_name))
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    rest = list(range(1 + n_ctx + n_name, length))
    return [0, *context[:before], *name, *context[before:], *rest]
