"""A finished run in use: loaded from its folder, it predicts, and says why. No dataset is needed.

Symbols: B images, S their side, C classes, J concepts, D joint width.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from xcoop.backbones import Backbone, ImageFeatures, load_backbone
from xcoop.concepts import ConceptBank, load_bank
from xcoop.config.merge import config_hash, read_config
from xcoop.config.plugins import add_missing, get_cfg, trainer_class
from xcoop.explain.concepts import Change, ConceptSet, Decomposition, changes, concept_set, decompose
from xcoop.explain.explanation import Explanation, explain_features
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.prompts import DEFAULT
from xcoop.results import checkpoints
from xcoop.results.record import CONFIG, RESULTS, read_run
from xcoop.utils.images import from_array, open_bytes, open_image, upright

BATCH = 64
ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model makes of some images.

    Attributes:
        probabilities: (B, C), each row sums to one.
        classnames: C names, in the order of the columns.
    """

    probabilities: NDArray[np.float64]
    classnames: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each image."""
        return [self.classnames[index] for index in self.probabilities.argmax(1)]


class TrainedModel:
    """The model of a finished run; `xcoop.load_run` makes it.

    Attributes:
        folder: of the run.
        cfg: its merged config.
        results: its `results.json`.
        model: the method with its learned weights, frozen, in evaluation mode.
        start: what its training started from, as `PromptModel.trained_state` gives it.
        bank: concepts of its classes; None if there are none.
        device: where it computes.
    """

    def __init__(
        self,
        folder: Path,
        cfg: Any,
        results: dict[str, Any],
        model: PromptModel,
        start: dict[str, Tensor],
        bank: ConceptBank | None,
        device: torch.device,
    ) -> None:
        from dassl.data.transforms import build_transform

        self.folder, self.cfg, self.results = folder, cfg, results
        self.model, self.start, self.bank, self.device = model, start, bank, device
        self._changes: dict[int | None, list[Change]] = {}
        with redirect_stdout(io.StringIO()):  # Dassl's own tells its steps, on the standard output
            self._transform: Any = build_transform(cfg, is_train=False)

    @property
    def backbone(self) -> Backbone:
        """The CLIP below the method."""
        return self.model.backbone

    @property
    def image_backbone(self) -> Backbone:
        """The CLIP with whatever the method put into its image tower: what sees the images."""
        return self.model.image_backbone

    @property
    def classnames(self) -> list[str]:
        """C names, in the order of the labels."""
        return self.model.classnames

    @property
    def mixes_batches(self) -> bool:
        """Whether an image's logits depend on what else is in its batch: then images are taken one at a time."""
        return self.model.mixes_batches

    # Images in, predictions and explanations out.

    def preprocess(self, images: ImageLike | Iterable[ImageLike]) -> Tensor:
        """Images as the backbone takes them, (B, 3, S, S).

        Args:
            images: one image or several. A path, the bytes of a file, a PIL image, an array (see
                `xcoop.utils.images.from_array`; of four axes: several) and a tensor of integers, (H, W) or (3, H, W),
                are an image as it was taken, and all give the same; a tensor of real values, (3, S, S) or
                (B, 3, S, S), is preprocessed already.

        Raises:
            FileNotFoundError: no such file.
            ValueError: what is no image, or may be two; the message says what to hand over instead.
        """
        if isinstance(images, Tensor) and images.dim() == 4 and images.is_floating_point():
            return self._preprocessed(images).to(self.device)
        listed: list[Any] = [images] if _is_one(images) else list(images)  # type: ignore[arg-type]
        if not listed:
            raise ValueError("no image is given")
        return torch.stack([self._one(image) for image in listed]).to(self.device)

    def _one(self, image: ImageLike) -> Tensor:
        if isinstance(image, Tensor):
            if image.is_floating_point():
                return self._preprocessed(image)
            image = image.cpu().numpy()
        if isinstance(image, np.ndarray):
            image = from_array(image)
        elif isinstance(image, (bytes, bytearray, memoryview)):
            image = open_bytes(bytes(image), "the image given as bytes")
        elif isinstance(image, Image.Image):
            image = upright(image)
        elif isinstance(image, (str, os.PathLike)):
            image = open_image(image)
        else:
            raise ValueError(
                f"{type(image).__name__} is no image: hand over a path, the bytes of a file, a PIL image, an array or "
                "a tensor"
            )
        tensor: Tensor = self._transform(image)
        return tensor

    def _preprocessed(self, images: Tensor) -> Tensor:
        """Real values, (3, S, S) or (B, 3, S, S); refused if they may be an image that is not normalised yet."""
        if images.ndim not in (3, 4) or images.shape[-3] != 3:
            raise ValueError(
                f"a tensor of real values must be preprocessed, (3, S, S) or (B, 3, S, S), not {tuple(images.shape)}; "
                "hand over an image as it was taken as integers, an array or a PIL image"
            )
        if "normalize" in self.cfg.INPUT.TRANSFORMS and images.numel() and images.min() >= 0 and images.max() <= 1:
            raise ValueError(
                "all values of a tensor lie in [0, 1], so it may be an image that is not normalised yet; hand that "
                "over as an array, or as integers (x.mul(255).round().byte())"
            )
        return images

    @torch.no_grad()
    def features(self, images: ImageLike | Iterable[ImageLike]) -> ImageFeatures:
        """Global and local features of images, (B, D) and (B, T, D)."""
        parts = [self.image_backbone.encode_image(x, patches=True) for x in self.preprocess(images).split(BATCH)]
        return ImageFeatures(torch.cat([part.pooled for part in parts]), torch.cat([part.patches for part in parts]))

    @torch.no_grad()
    def logits(self, features: ImageFeatures) -> Tensor:
        """The trained model's logits of some images' features, (B, C)."""
        if not self.mixes_batches:
            return self.model.logits(features)
        pairs = zip(features.pooled.split(1), features.patches.split(1), strict=True)
        return torch.cat([self.model.logits(ImageFeatures(*pair)) for pair in pairs])

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Prediction:
        """Probabilities and classes of one image or several; see `preprocess` for what counts as an image."""
        probabilities = self.logits(self.features(images)).double().softmax(1)
        return Prediction(probabilities.cpu().numpy(), tuple(self.classnames))

    def explain(
        self, images: ImageLike | Iterable[ImageLike], method: str = "", concepts: Sequence[str] | None = None
    ) -> Explanation | list[Explanation]:
        """Why a model sees what it sees in an image.

        Args:
            images: one image, or several.
            method: of all heat maps, see `xcoop.explain.maps.explainers`; "" is the backbone's default, one for
                classes and one for concepts.
            concepts: for which of the bank's concepts maps are made; None: for all.

        Returns:
            An explanation; a list of them if several images were given.
        """
        batch = self.preprocess(images)
        size = 1 if self.mixes_batches else BATCH
        found = [one for part in batch.split(size) for one in explain_features(self, part, method, concepts)]
        return found[0] if _is_one(images) else found

    # What the method compares images with.

    @cached_property
    def concepts(self) -> ConceptSet | None:
        """The bank's concepts as vectors; None without a bank."""
        return concept_set(self.backbone, self.bank) if self.bank is not None else None

    @cached_property
    def decomposition(self) -> Decomposition | None:
        """The learned prompts as sums of concepts; None with fewer than two concepts."""
        if self.concepts is None or len(self.concepts.texts) < 2:
            return None
        return decompose(self.learned_vectors(), self.concepts.vectors)

    def changes(self, control: int | None = None) -> list[Change]:
        """The class features without each of the bank's concepts; see `concepts.changes`. Made once."""
        if self.bank is None or self.concepts is None:
            return []
        if control not in self._changes:
            self._changes[control] = changes(self.model, self.bank, self.concepts.texts, control)
        return self._changes[control]

    @torch.no_grad()
    def learned_vectors(self) -> Tensor:
        """The learned prompts alone, without the clinical sentences that XCoOp adds to them: (C, D), unit."""
        soft_features: Any = getattr(self.model, "soft_features", self.model.text_features)
        return _mean_of_prompts(soft_features())

    @torch.no_grad()
    def class_vectors(self) -> Tensor:
        """What images are compared with, one unit vector a class: (C, D); before an image shifts them, if it does."""
        return _mean_of_prompts(self.model.text_features())

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """While it is open, the model is as it was before training."""
        learned = self.model.trained_state()
        self.model.load_trained_state(self.start)
        try:
            yield
        finally:
            self.model.load_trained_state(learned)


def _mean_of_prompts(text: Tensor) -> Tensor:
    """(C, D) or (K, C, D) to (C, D), unit."""
    text = unit(text)
    return unit(text.mean(0)) if text.dim() == 3 else text


def _is_one(images: ImageLike | Iterable[ImageLike]) -> bool:
    """Whether it is one thing, and not several: arrays and tensors of four axes are."""
    if hasattr(images, "read") or not isinstance(images, Iterable):  # a file is iterable, by its lines
        return True
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim != 4
    return isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))


# From a run's folder.


def load_run(folder: Path, device: str | None = None) -> TrainedModel:
    """The trained model of a run; see `xcoop.load_run`."""
    results = read_run(folder)
    if results is None or not (folder / CONFIG).is_file():
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{RESULTS}")) if folder.is_dir() else []
        hint = f"; finished runs below it: {', '.join(inside)}" if inside else ""
        raise FileNotFoundError(f"{folder} is not the folder of a finished run: {RESULTS} and {CONFIG} needed{hint}")
    cfg = _config(folder / CONFIG, results)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu"))
    backbone = load_backbone(cfg).to(where)
    bank = _bank(cfg, results)
    trainer = trainer_class(cfg.TRAINER.NAME)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(max(cfg.SEED, 0))  # as in training, so that `start` is where it started
        task = Task(results["classnames"], bank if trainer.uses_bank(cfg) else None, results.get("template") or DEFAULT)
        model = trainer.build_method(cfg, backbone, task)
    model = model.to(where).eval()
    start = model.trained_state()
    _load_weights(model, folder, cfg, results)
    # A prompt means nothing to other weights than those it was learned with; tuned norm layers are in place now.
    wanted, found = results.get("backbone_sha256"), backbone.fingerprint()
    if wanted and wanted != found:
        raise ValueError(
            f"{folder / RESULTS}: the run's backbone {results['backbone']} had weights with SHA-256 {wanted[:12]}..., "
            f"those found now have {found[:12]}...: set MODEL.BACKBONE.PATH in {CONFIG} "
            "to where the run's own weights lie, under their old name"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return TrainedModel(folder, cfg, results, model, start, bank, where)


def _config(path: Path, results: dict[str, Any]) -> Any:
    """The saved config; keys that are newer than it have their defaults.

    Raises:
        ValueError: it is not that of the recorded run.
    """
    cfg = CfgNode(read_config(path))
    found = config_hash(cfg)
    if (found, cfg.get("SEED")) != (results["config_hash"], results["seed"]):
        raise ValueError(
            f"{path} was changed after the run: its settings have the SHA-256 {found[:12]}... and the seed "
            f"{cfg.get('SEED')}, and {RESULTS} records {results['config_hash'][:12]}... and {results['seed']}. Restore "
            "it; data and weights may lie in another folder (DATASET.ROOT, MODEL.BACKBONE.PATH), under their old names"
        )
    add_missing(cfg, get_cfg())
    cfg.freeze()
    return cfg


def _bank(cfg: Any, results: dict[str, Any]) -> ConceptBank | None:
    """The concepts of the run's classes, also for methods that were trained without them; None if there are none."""
    from dassl.data.datasets import DATASET_REGISTRY

    known = cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()  # else it belongs to the programme that trained
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME) if known else None
    name = cfg.DATASET.CONCEPT_BANK or results.get("concept_bank") or getattr(dataset, "concept_bank", "")
    if not name:
        return None
    try:
        bank = load_bank(name).for_classes(results["classnames"])
    except (OSError, ValueError) as error:
        if results.get("bank"):
            raise
        logger.warning("no concepts for the classes %s: %s", results["classnames"], error)
        return None
    recorded = results.get("bank")
    if recorded and recorded["sha256"] != bank.sha256:
        logger.warning("concept bank %s has changed since the run (%s)", name, bank.path)
    return bank


def _load_weights(model: PromptModel, folder: Path, cfg: Any, results: dict[str, Any]) -> None:
    """Takes over what the run learned: of the epoch, and from the folder, that its record names."""
    if not model.state_tensors() or results.get("evaluated_from") == "untrained":
        return
    source = Path(results["evaluated_from"]) if results.get("evaluated_from") else folder
    path = checkpoints.to_test(source / "prompt_learner", results.get("load_epoch"), cfg.TEST.FINAL_MODEL)
    model.load_trained_state(checkpoints.read_checkpoint(path)["state_dict"], str(path))
