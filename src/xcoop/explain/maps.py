"""Heat maps: where an image tower looked for what a target scores.

First what is explained (`Target`), then methods by their names (`explain_maps`), then the methods: each is a function
of backbone, images and target to raw maps, most of them over one pass that keeps what they read (`tower.trace`).

Symbols: B images, S their side, C classes, K prompts a class; gh x gw patches, T = gh * gw; h heads, L tokens, d width
of a head, V width of the tower, D joint width. Token 0 is the class token, if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.resnet import resnet_map, resnet_pooled
from xcoop.backbones.vit import projected, vit_projected
from xcoop.explain.tower import trace, visual_of
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel
from xcoop.utils.console import to_paste, unknown

# What is explained.


class Target(NamedTuple):
    """A differentiable score of image features, and the text that it compares them with."""

    name: str  # of the class or concept
    score: Callable[[ImageFeatures], Tensor]  # of B images, (B,); each image's depends on its own features alone
    direction: Callable[[ImageFeatures], Tensor]  # the unit text vectors that they are compared with, (B, D)


def class_target(model: PromptModel, label: int) -> Target:
    """The logit that a trained model really uses for a class, local terms and all prompts included."""

    @torch.no_grad()
    def direction(features: ImageFeatures) -> Tensor:
        """The mean of the class's unit prompt features; only prompts that depend on the image look at it."""
        text = unit(unit(model.image_text_features(features)).mean(1))  # (B or 1, C, D)
        return text[:, label].expand(len(features.pooled), -1)

    logits = model.fixed_logits()  # methods ask for the score of one image many times
    return Target(model.classnames[label], lambda features: logits(features)[:, label], direction)


def concept_target(name: str, vector: Tensor, scale: Tensor | float) -> Target:
    """The cosine of an image with the sentence of a concept, a text feature (D,), times CLIP's inverse temperature."""
    vector = unit(vector)
    return Target(
        name,
        lambda features: scale * unit(features.pooled) @ vector,
        lambda features: vector.expand(len(features.pooled), -1),
    )


# The methods by name.

Method = Callable[[Backbone, Tensor, Target], Tensor]
"""(backbone, images (B, 3, S, S), target) to raw maps (B, gh, gw), higher = more relevant."""
FINER = "@2"  # behind a method's name: maps at half a patch


class Methods(NamedTuple):
    """Names of the methods that explain a class's logit, and the similarity with a concept."""

    of_class: str
    of_concept: str


DEFAULTS = {"vit": Methods("legrad", "maskclip@2"), "resnet": Methods("maskclip", "maskclip@2")}


class Explainer(NamedTuple):
    """A visual method."""

    name: str  # as it is asked for
    method: Method
    towers: tuple[str, ...]  # the image towers that it can look into, "vit" and "resnet"
    class_specific: bool  # whether the map depends on what is explained
    summary: str  # one sentence for readers of its maps
    cost: str  # passes through the image tower, in words
    relative: bool = False  # whether 0 means nothing in its maps, and a value must be compared with the map's mean


EXPLAINERS: dict[str, Explainer] = {}
BOTH = ("vit", "resnet")


def register_explainer(
    name: str, towers: tuple[str, ...], summary: str, cost: str, class_specific: bool = True, relative: bool = False
) -> Callable[[Method], Method]:
    """Offers the decorated function as a visual method; see `Explainer`."""

    def collect(method: Method) -> Method:
        EXPLAINERS[name] = Explainer(name, method, towers, class_specific, summary, cost, relative)
        return method

    return collect


def explain_maps(name: str, backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Where an image tower looked for what a target scores.

    Args:
        name: of the method.
        backbone: with the image tower that gives the target its features; nothing of it is changed.
        images: preprocessed, (B, 3, S, S).
        target: what is explained.

    Returns:
        Raw maps (B, gh, gw) in 32 bit, without gradient; each image's map is that of the image alone. A method at half
        a patch gives (B, 2 gh, 2 gw).

    Raises:
        ValueError: an unknown method, or one that cannot look into this tower.
    """
    chosen, tower = explainer(name), tower_of(backbone)
    if tower not in chosen.towers:
        able = [other.name for other in explainers().values() if tower in other.towers]
        raise ValueError(f"{name} cannot look into the {tower} of {backbone.name}; these can: {', '.join(able)}")
    with torch.enable_grad():
        return chosen.method(backbone, images.to(backbone.dtype), target).detach().float()


def methods(backbone: Backbone, asked: str = "") -> Methods:
    """The method that was asked for, for classes and concepts alike; "" is the backbone's default, for each its own.

    Raises:
        ValueError: nobody offers it.
    """
    return Methods(explainer(asked).name, asked) if asked else DEFAULTS[tower_of(backbone)]


def explainers() -> dict[str, Explainer]:
    """Every registered method by name, sorted."""
    return dict(sorted(EXPLAINERS.items()))


def explainer(name: str) -> Explainer:
    """The method of a name; `maskclip@2` is maskclip at half a patch, `captum:IntegratedGradients` captum's.

    Raises:
        ValueError: nobody offers it.
        ImportError: it is captum's, which is not installed.
    """
    if name.endswith(FINER):
        coarse = explainer(name.removesuffix(FINER))
        method, cost = partial(finer_maps, coarse.method), f"4 x ({coarse.cost})"
        summary = f"{coarse.summary} Four shifted images tell the halves of a patch apart."
        return coarse._replace(name=name, method=method, summary=summary, cost=cost)
    if name.startswith("captum:"):
        return captum_explainer(name)
    if name not in EXPLAINERS:
        raise ValueError(unknown("visual explanation", name, explainers()))
    return EXPLAINERS[name]


def tower_of(backbone: Backbone) -> str:
    """`vit` or `resnet`."""
    return "vit" if getattr(backbone, "is_vit", False) else "resnet"


# What several methods do with what `trace` keeps.


def as_grid(backbone: Backbone, relevance: Tensor) -> Tensor:
    """Relevance of the patches (B, T), row by row, as maps (B, gh, gw)."""
    return relevance.unflatten(1, backbone.grid)


def stretched(values: Tensor) -> Tensor:
    """Each row of (B, T) from 0 to 1; a constant one is 0."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-12)


# Methods with gradients.


@register_explainer("gradcam", BOTH, "Channels of the last features that raise the score.",
                    "1 forward, 1 backward of the last layers")  # fmt: skip
def gradcam(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017): map = relu( sum_ch w_ch F_ch ), w = mean over positions of dS/dF.

    F: for a ViT the patch tokens that enter the last block (the class token reads them there; those that leave it no
    longer reach it), for a ResNet what leaves its last stage.
    """
    if tower_of(backbone) == "resnet":
        visual = visual_of(backbone)
        with torch.no_grad():
            last = resnet_map(visual, images)
        last.requires_grad_()
        (gradient,) = torch.autograd.grad(target.score(resnet_pooled(visual, last, True)).sum(), [last])
        return (gradient.mean((2, 3), keepdim=True) * last).sum(1).relu()
    seen = trace(backbone, images)
    tokens = seen.tokens[-2]
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [tokens])
    weights = gradient[:, seen.patches].mean(1, keepdim=True)  # (B, 1, V)
    return as_grid(backbone, (weights * tokens[:, seen.patches]).sum(-1).relu())


@register_explainer("gradeclip", ("vit",), "Values of the last attention that raise the score, where query and key "
                    "agree.", "1 forward, 1 backward of the last layers")  # fmt: skip
def gradeclip(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Grad-ECLIP (Zhao et al., "Gradient-based Visual Explanation for Transformer-based CLIP", ICML 2024).

        map_i = relu( sum_ch  dS/dO[0] * v_i * w_i ),   w_i = minmax_i( cos( W_o q_0, W_o k_i ) )

    O: the last attention's output before its projection; q, k, v with their heads side by side. The formula follows the
    class token, or the query of the pool that reads the patches instead; of the score's local term only what passes
    there counts.
    """
    seen = trace(backbone, images)
    last, weight = seen.reader
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [last.mixed])
    q, k, v = (part.transpose(1, 2).flatten(2) for part in (last.queries, last.keys, last.values))  # (B, L, V)
    near = F.cosine_similarity(q[:, :1] @ weight.T, k[:, seen.patches] @ weight.T, dim=-1)  # (B, T)
    return as_grid(backbone, ((gradient[:, :1] * v[:, seen.patches]).sum(-1) * stretched(near)).relu())


@register_explainer("relevancy", ("vit",), "What reaches the class token through attention that raises the score.",
                    "1 forward, 1 backward of the last layers")  # fmt: skip
def relevancy(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Gradient-weighted attention (Chefer et al., "Generic Attention-model Explainability", ICCV 2021).

    map = mean_h( relu( dS/dA * A ) )[0, 1:], A the attention of the last block alone, as the authors advise for CLIP,
    or that of the pool which reads the patches instead; the score S is the whole one, local term included.
    """
    seen = trace(backbone, images)
    probs = seen.reader[0].probs
    (gradient,) = torch.autograd.grad(target.score(seen.features).sum(), [probs])
    return as_grid(backbone, (gradient * probs).relu().mean(1)[:, 0, seen.patches])


@register_explainer("legrad", ("vit",), "In all blocks together: where more attention would raise the score.",
                    "1 forward, 1 backward a block, of that block alone")  # fmt: skip
def legrad(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """LeGrad (Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers", ICCV 2025).

        S_l = score of the tokens that leave block l;   map = sum_l mean_{h, queries} relu( dS_l / dA_l )

    A_l: attention of block l, on its patch keys. Of each block, the mean of the projected tokens stands for the global
    feature and its projected patch tokens for the local ones, so the score is the same function in every block.
    The paper stretches each map from 0 to 1; as they are, the maps of one image share a scale.
    """
    seen = trace(backbone, images)
    total = torch.zeros(len(images), math.prod(backbone.grid), device=images.device)  # (B, T)
    for attention, tokens in zip(seen.attention, seen.tokens[1:], strict=True):
        own = tokens[:, : seen.own]
        mean = vit_projected(seen.visual, own.mean(1, keepdim=True)).pooled
        features = ImageFeatures(mean, vit_projected(seen.visual, own).patches)
        (gradient,) = torch.autograd.grad(target.score(features).sum(), [attention.probs], retain_graph=True)
        total = total + gradient.relu().mean((1, 2))[:, seen.patches].float()
    return as_grid(backbone, total)


# Methods without gradients.


@register_explainer("rollout", ("vit",), "What attention carries to the class token, for every class the same.",
                    "1 forward", class_specific=False)  # fmt: skip
@torch.no_grad()
def rollout(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Attention rollout (Abnar and Zuidema, ACL 2020): a baseline, which does not depend on the target.

    A' = rownorm( mean_h A + I );   R = A'_L ... A'_1;   map = R[0, 1:]

    Where a pool reads the patches, its attention stands before the others, without the I: its query is none of them.
    """
    seen = trace(backbone, images)
    eye = torch.eye(seen.attention[0].probs.shape[-1], device=images.device)
    total = eye.expand(len(images), -1, -1)
    for index, attention in enumerate(seen.attention):
        if index < seen.prompted:  # the block's own prompts know nothing of the image
            total = torch.cat([total[:, : seen.own], torch.zeros_like(total[:, seen.own :])], dim=1)
        total = (attention.probs.float().mean(1) + eye) / 2 @ total  # rows of probs sum to one
    if seen.pool is not None:
        total = seen.pool.probs.float().mean(1) @ total[:, : seen.own]  # (B, 1, L)
    return as_grid(backbone, total[:, 0, seen.patches])


@register_explainer("similarity", BOTH, "How near each patch is to the text; may prefer the background.", "1 forward",
                    relative=True)  # fmt: skip
@torch.no_grad()
def similarity(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Raw similarity of each patch feature with the text, what XCoOp's own local term looks at: map_i = cos(f_i, t).

    Patch features of CLIPs that were trained on whole images often prefer the background ("opposite visualisation"; Li
    et al., "CLIP Surgery", arXiv 2304.05653): never the default here.
    """
    features = backbone.encode_image(images, patches=True)
    text = target.direction(features)  # (B, D)
    return as_grid(backbone, F.cosine_similarity(features.patches, text[:, None], dim=-1))


@register_explainer("maskclip", BOTH, "How near each patch's own value is to the text.", "1 forward", relative=True)
@torch.no_grad()
def maskclip(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """MaskCLIP (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022): local similarity by the value path.

        u_i = proj( ln_post( x_i + W_o v_i, then + MLP ) ) in the last block;   map_i = cos(u_i, t)

    Each patch keeps to itself in the last block: it attends to nothing but its own value. t: the target's text. For
    ResNets the local features are made in this way already (`resnet_pooled`).
    """
    if tower_of(backbone) == "resnet":
        return similarity(backbone, images, target)
    seen = trace(backbone, images)
    block, tokens = seen.visual.transformer.resblocks[-1], seen.tokens[-2][:, : seen.own]
    attn, width = block.attn, tokens.shape[-1]
    tokens = tokens + attn.out_proj(projected(attn, block.ln_1(tokens))[..., 2 * width :])  # the values alone
    tokens = tokens + block.mlp(block.ln_2(tokens))
    text = target.direction(seen.features)  # (B, D)
    return as_grid(backbone, F.cosine_similarity(vit_projected(seen.visual, tokens).patches, text[:, None], dim=-1))


# Slow, black-box referees. What is hidden becomes 0, the mean colour of the backbone's training.


@register_explainer("occlusion", BOTH, "How far the score falls when a patch is covered.", "1 forward a patch, and 1")
@torch.no_grad()
def occlusion(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Occlusion: how far the score falls without one patch, map_i = S(x) - S(x without patch i)."""
    rows, columns = backbone.grid
    high, wide = images.shape[2] // rows, images.shape[3] // columns
    whole = target.score(backbone.encode_image(images, patches=True))
    falls = []
    for row in range(rows):
        for column in range(columns):
            covered = images.clone()
            covered[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = 0
            falls.append(whole - target.score(backbone.encode_image(covered, patches=True)))
    return as_grid(backbone, torch.stack(falls, dim=1))


MASKS = 512  # of RISE
CELLS = 7
ON = 0.5
_SEED = 20180617


@register_explainer("rise", BOTH, "Where the score is high when a patch is in sight.", f"{MASKS} forward",
                    relative=True)  # fmt: skip
@torch.no_grad()
def rise(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """RISE (Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018).

        map = mean_n( (S(x * m_n) - mean_n S(x * m_n)) * m_n ) / p

    The authors weight by S itself, a probability; S is a logit of any level here, and without its mean the map would
    show mostly how often a pixel happened to be on. The masks are the same for all images and calls.
    """
    masks = random_masks(MASKS, images.shape[-1]).to(images)  # (N, S, S)
    scores = torch.stack([target.score(backbone.encode_image(images * mask, patches=True)) for mask in masks])  # (N, B)
    centred = (scores - scores.mean(0)).float()
    patches = F.adaptive_avg_pool2d(masks[:, None].float(), backbone.grid)[:, 0]  # (N, gh, gw)
    return torch.einsum("nb,nij->bij", centred, patches) / (ON * len(masks))


def random_masks(count: int, side: int) -> Tensor:
    """(count, side, side) in [0, 1], always the same; on the CPU.

    CELLS x CELLS coins, on with probability p, stretched bilinearly and shifted at random within a cell.
    """
    generator = torch.Generator().manual_seed(_SEED)
    cell = -(-side // CELLS)  # pixels, rounded up: the cells cover the picture wherever it is cut out
    coins = (torch.rand(count, 1, CELLS + 1, CELLS + 1, generator=generator) < ON).float()
    shifts = torch.randint(cell, (count, 2), generator=generator).tolist()
    large = F.interpolate(coins, size=((CELLS + 1) * cell,) * 2, mode="bilinear", align_corners=False)[:, 0]
    cut = [mask[down : down + side, right : right + side] for mask, (down, right) in zip(large, shifts, strict=True)]
    return torch.stack(cut)


# Of any method, at half a patch; and captum's.


def finer_maps(method: Method, backbone: Backbone, images: Tensor, target: Target) -> Tensor:
    """Maps at half a patch: a method's maps of four images that are shifted by half a patch, put back and averaged.

    A map of patches says of a thin line only which patch it crosses. Each half patch lies in one patch of each of the
    four shifted images; the mean of what these four say of it tells the halves of a patch apart. At the lower and right
    edge fewer shifts cover a half patch. What a shift leaves free there is filled with the image's last row or column.

    Returns:
        Raw maps (B, 2 gh, 2 gw) in 32 bit, without gradient.
    """
    rows, columns = backbone.grid
    high, wide = images.shape[2] // rows // 2, images.shape[3] // columns // 2  # pixels of half a patch
    total = torch.zeros(len(images), 2 * rows, 2 * columns, device=images.device)
    covered = torch.zeros_like(total)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        edged = F.pad(images, (0, right * wide, 0, down * high), mode="replicate")
        maps = method(backbone, edged[:, :, down * high :, right * wide :], target).detach().float()
        halves = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
        total[:, down:, right:] += halves[:, : 2 * rows - down, : 2 * columns - right]
        covered[:, down:, right:] += 1
    return total / covered


# Attributions of captum that give an image the same map each time and whatever its batch. Left out are those that draw
# random numbers (Lime, KernelShap, ShapleyValueSampling), mix the images of a batch (FeaturePermutation), need more
# than an image (layers, baselines, tokenizers), or replace the rules of activation modules (DeepLift, GuidedBackprop,
# Deconvolution): CLIP's vision transformer has none that they know, and they would return plain gradients there under
# another name.
CAPTUM_COSTS = {
    "InputXGradient": "1 forward, 1 backward",
    "IntegratedGradients": "50 forward, 50 backward",
    "Occlusion": "1 forward a patch, and 1",
    "Saliency": "1 forward, 1 backward",
}


def captum_explainer(name: str) -> Explainer:
    """The method `captum:<class>`: attributions of pixels, summed over colours and averaged over each patch.

    Raises:
        ImportError: captum is not installed.
        ValueError: it is none of those that are offered.
    """
    wanted = name.partition(":")[2]
    if wanted not in CAPTUM_COSTS:
        raise ValueError(unknown("attribution of captum", wanted, CAPTUM_COSTS))
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError(f"{name} needs captum: {to_paste('pip', 'install', 'xcoop[xai]')}") from error

    def method(backbone: Backbone, images: Tensor, target: Target) -> Tensor:
        def score(pixels: Tensor) -> Tensor:
            return target.score(backbone.encode_image(pixels, patches=True))

        rows, columns = backbone.grid
        patch = (3, images.shape[2] // rows, images.shape[3] // columns)
        options = {"sliding_window_shapes": patch, "strides": patch} if wanted == "Occlusion" else {}
        pixels = getattr(attr, wanted)(score).attribute(images.detach().clone().requires_grad_(), **options)
        return F.adaptive_avg_pool2d(pixels.sum(1, keepdim=True), backbone.grid)[:, 0]

    return Explainer(name, method, BOTH, True, f"captum's {wanted}, averaged over each patch.", CAPTUM_COSTS[wanted])
