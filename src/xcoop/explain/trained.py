"""A finished run in use: loaded from its folder, it predicts, and says why. No dataset is needed.

Symbols: B images, S their side, C classes, J concepts, D joint width; gh x gw patches.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
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
from xcoop.explain.answers import Explanation, Explanations, HeatMap, ImageLike, Prediction, is_preprocessed, opened
from xcoop.explain.calibration import calibrated
from xcoop.explain.calibration import in_words as certainty_in_words
from xcoop.explain.concepts import (
    ConceptSet,
    Decomposition,
    HeldConcepts,
    PartConcepts,
    SentenceConcepts,
    concept_set,
    decompose,
    image_sentences,
)
from xcoop.explain.content import Calibration, Trust, earlier
from xcoop.explain.content import Explanations as Measured
from xcoop.explain.exact import Decision, ExactConcepts, Seeing, Seen, in_words
from xcoop.explain.html import Notice
from xcoop.explain.maps import Methods, class_target, concept_target, explain_maps, methods
from xcoop.explain.readings import warning
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.prompts import DEFAULT
from xcoop.results import checkpoints
from xcoop.results.record import CONFIG, RESULTS, read_run
from xcoop.utils.console import unknown

BATCH = 64
NOTHING = 1e-5  # logits; smaller changes are rounding

logger = logging.getLogger(__name__)


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
        backbone: the CLIP below the method.
        classnames: C names, in the order of the labels.
        mixes_batches: whether an image's logits depend on what else is in its batch: then images are taken one at a
            time.
        seeing: turns concept scores into probabilities; None until labelled images were seen (`learn_to_see`).
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
        self.backbone, self.classnames, self.mixes_batches = model.backbone, model.classnames, model.mixes_batches
        self.seeing: Seeing | None = None
        with redirect_stdout(io.StringIO()):  # Dassl's own tells its steps, on the standard output
            self._transform: Any = build_transform(cfg, is_train=False)

    @property
    def image_backbone(self) -> Backbone:
        """The CLIP with whatever the method put into its image tower: what sees the images."""
        return self.model.image_backbone

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
        if is_preprocessed(image):
            return self._preprocessed(image)  # type: ignore[arg-type]
        tensor: Tensor = self._transform(opened(image))
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
        return self.encoded(self.preprocess(images))

    @torch.no_grad()
    def encoded(self, images: Tensor) -> ImageFeatures:
        """The same of preprocessed images, (B, 3, S, S), whatever their values: an erased one is 0 all over."""
        parts = [self.image_backbone.encode_image(part, patches=True) for part in images.to(self.device).split(BATCH)]
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
            concepts: for which of the bank's concepts maps are made; None: for all. See `explained`.

        Returns:
            An explanation; a list of them if several images were given. In a notebook it shows itself.

        Raises:
            ValueError: an unknown method or concept.
        """
        texts = self.concepts.texts if self.concepts else ()
        for name in concepts or ():
            if name not in texts:
                raise ValueError(unknown("concept", name, texts))
        wanted, chosen = texts if concepts is None else concepts, methods(self.backbone, method)
        is_one = _is_one(images)
        if not is_one and not isinstance(images, Tensor):
            images = list(images)  # type: ignore[arg-type]
        tensor = self.preprocess(images)
        parts, notice = tensor.split(1 if self.mixes_batches else BATCH), self.notice(method)
        said = (one for part in parts for one in self.explained(part, chosen, wanted))
        given: Iterable[Any] = [images] if is_one else images  # type: ignore[assignment]
        found = Explanations(
            replace(one, notice=notice, image=self.as_seen(part) if is_preprocessed(image) else image)
            for one, image, part in zip(said, given, tensor, strict=True)
        )
        return found[0] if is_one else found

    def explained(self, images: Tensor, chosen: Methods, wanted: Sequence[str] | None = None) -> Iterator[Explanation]:
        """Explains preprocessed images, (B, 3, S, S), by methods that there are.

        Maps are made of the wanted concepts; None: of those that the text of any of these images names, where logits
        are exact sums, else of none.
        """
        features = self.features(images)
        probabilities = self.logits(features).double().softmax(1).tolist()  # (B, C)
        texts, scores = self.concepts.texts if self.concepts else (), self.concept_scores(features)
        added, base = self._added(features)
        falling = self.held.falling if isinstance(self.held, ExactConcepts) else ()
        lower = {(self.classnames[label], text) for label, text in falling}
        seen = self.seen(features)
        decisions = []
        for row, own, shown in zip(probabilities, added, seen, strict=True):
            parts = {name: {text: of[name] for text, of in own.items() if name in of} for name in self.classnames}
            shares = dict(zip(self.classnames, row, strict=True))
            decisions.append(Decision(self.classnames[int(np.argmax(row))], shares, parts, base, shown, lower))
        if wanted is None:
            named = [text for one in decisions for _, text in (one.named() if base else ())]
            wanted = [text for text in dict.fromkeys(named) if text in texts]
        class_maps = [self.class_maps(images, label, chosen.of_class) for label in range(len(self.classnames))]
        concept_maps = [self.concept_maps(images, text, chosen.of_concept) for text in wanted]
        for index, (one, row) in enumerate(zip(decisions, probabilities, strict=True)):
            predicted, shares = one.predicted, dict(one.probabilities)
            changes = one.parts[predicted]
            said = one.sentences() if base else image_sentences(predicted, shares[predicted], changes)
            yield Explanation(
                predicted=predicted,
                probabilities=shares,
                methods=chosen,
                class_maps=dict(zip(self.classnames, (_values(maps[index]) for maps in class_maps), strict=True)),
                concept_maps=dict(zip(wanted, (_values(maps[index]) for maps in concept_maps), strict=True)),
                concept_scores=dict(zip(texts, scores[index].tolist(), strict=True)),
                contributions=added[index],
                base=base,
                seen=seen[index],
                text=said,
                certainty_means=certainty_in_words(self.calibration, max(row)),
                size=(images.shape[2], images.shape[3]),
            )

    def _added(self, features: ImageFeatures) -> tuple[list[dict[str, dict[str, float]]], dict[str, float]]:
        """Of each image by concept and class what adds to a logit; and by class the base, if that makes it a sum."""
        count = len(features.pooled)
        found: list[dict[str, dict[str, float]]] = [{} for _ in range(count)]
        if isinstance(self.held, ExactConcepts):
            parts, base = self.held.parts(features)
            for one, row in zip(found, parts.tolist(), strict=True):
                for told, value in zip(self.model.told, row, strict=True):
                    own = one.setdefault(told.concept, {})
                    own[self.classnames[told.label]] = own.get(self.classnames[told.label], 0.0) + value
            return found, dict(zip(self.classnames, base.tolist(), strict=True))
        if self.held is not None and self.concepts is not None:
            moved = self.held.contributions(features).tolist()  # (B, C, J)
            for one, rows in zip(found, moved, strict=True):
                for text, values in zip(self.concepts.texts, zip(*rows, strict=True), strict=True):
                    pairs = zip(self.classnames, values, strict=True)
                    one[text] = {name: value for name, value in pairs if abs(value) > NOTHING}
        return found, {}

    def seen(self, features: ImageFeatures) -> list[dict[str, Seen]]:
        """Of each image by concept whether it shows it, as far as that can be told; see `xcoop.explain.exact`."""
        texts = self.concepts.texts if self.concepts else ()
        scores = self.concept_scores(features).double().cpu().numpy()  # (B, J)
        probabilities = self.seeing.probabilities(scores) if self.seeing else np.full(scores.shape, np.nan)
        found = self.held.deviations(features) if isinstance(self.held, ExactConcepts) else None
        deviations = np.full(scores.shape, np.nan) if found is None else found.cpu().numpy()
        rows = [
            {text: in_words(*pair) for text, *pair in zip(texts, *each, strict=True)}
            for each in zip(probabilities.tolist(), deviations.tolist(), strict=True)
        ]
        return [{text: one for text, one in row.items() if one is not None} for row in rows]

    def learn_to_see(self, images: Sequence[ImageLike], labels: NDArray[np.float64]) -> None:
        """Calibrates what is seen on images whose concepts are known.

        Args:
            images: N of them, which the run may have been trained on; never those that are to be judged.
            labels: of the J concepts, (N, J): 1 shown, 0 not, NaN unknown.
        """
        scores = self.concept_scores(self.features(images))
        self.seeing = Seeing.fit(scores.double().cpu().numpy(), labels)

    def learn_certainty(self, images: Sequence[ImageLike], labels: Sequence[str], note: str = "") -> None:
        """Counts how often each certainty is right.

        Args:
            images: N of them, which the run was not trained on; never those that are to be judged.
            labels: the class of each.
            note: what a reader must know of these images.
        """
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        given = np.concatenate([self.predict(part).probabilities for part in parts])  # (N, C)
        right = np.array([self.classnames[guess] for guess in given.argmax(1)]) == np.array(labels)
        self.calibration = calibrated(given.max(1), right, note)

    # What an earlier page of this run measured is not measured again for every image.

    @cached_property
    def before(self) -> Measured | None:
        """What `xcoop explain` wrote into the run's folder; None if it did not, or the run is another now."""
        return earlier(self.folder, self.results)

    @cached_property
    def calibration(self) -> Calibration | None:
        """How often a certainty is right; None until validation images were seen, now or for an earlier page."""
        return self.before.calibration if self.before else None

    def measured(self, used: Methods) -> list[Trust]:
        """The earlier page's trust table; [] if there is none, or none of these methods of maps."""
        names = [one.name for one in self.before.methods] if self.before else []
        return self.before.trust if self.before and names == [used.of_class, used.of_concept] else []

    def notice(self, method: str = "") -> Notice:
        """What stands above an image's card, with maps of this method; see `explain`."""
        is_phantom, trust = bool(self.results["is_phantom"]), self.measured(methods(self.backbone, method))
        return Notice(is_phantom, warning(str(self.results["backbone"]), is_phantom, trust), bool(trust))

    def as_seen(self, tensor: Tensor) -> Image.Image:
        """A preprocessed image (3, S, S) as the model saw it."""
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in (self.cfg.INPUT.PIXEL_MEAN, self.cfg.INPUT.PIXEL_STD))
        normalised, pixels = "normalize" in self.cfg.INPUT.TRANSFORMS, tensor.cpu().float()
        pixels = pixels * std + mean if normalised else pixels
        return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())

    def class_maps(self, images: Tensor, label: int, method: str) -> Tensor:
        """Maps (B, gh, gw) of the logit that the model uses for a class, of preprocessed images."""
        return explain_maps(method, self.image_backbone, images, class_target(self.model, label))

    def concept_maps(self, images: Tensor, concept: str, method: str) -> Tensor:
        """Maps (B, gh, gw) of the similarity with the sentence of one of the bank's concepts."""
        assert self.concepts is not None  # noqa: S101 - the concept is one of these
        vector = self.concepts.vectors[self.concepts.texts.index(concept)]
        return explain_maps(method, self.image_backbone, images, concept_target(concept, vector, self.model.scale))

    def concept_scores(self, features: ImageFeatures) -> Tensor:
        """Cosines of images with the bank's concepts, (B, J)."""
        vectors = self.concepts.vectors if self.concepts else features.pooled[:0]
        return unit(features.pooled) @ vectors.T

    # What the method compares images with.

    @cached_property
    def concepts(self) -> ConceptSet | None:
        """The bank's concepts as vectors; None without any."""
        return concept_set(self.image_backbone, self.bank) if self.bank and any(self.bank.classes.values()) else None

    @cached_property
    def decomposition(self) -> Decomposition | None:
        """The learned prompts as sums of concepts; None with fewer than two concepts."""
        if self.concepts is None or len(self.concepts.texts) < 2:
            return None
        return decompose(self.class_vectors(), self.concepts.vectors)

    @cached_property
    def held(self) -> HeldConcepts | None:
        """The concepts whose sums logits are, or else a method's clinical sentences; else its decomposed prompts."""
        if self.model.sums_concepts and self.bank and self.concepts:
            return ExactConcepts(self.model, self.concepts.texts, self.bank)
        if self.model.holds_concepts and self.bank and self.concepts:
            return SentenceConcepts(self.model, self.bank, self.concepts)
        return PartConcepts(self.model, self.class_vectors(), self.decomposition) if self.decomposition else None

    @torch.no_grad()
    def class_vectors(self) -> Tensor:
        """What images are compared with, one unit vector a class: (C, D); before an image shifts them, if it does."""
        return self.model.class_features()

    @contextmanager
    def at_start(self, names: Collection[str] | None = None) -> Iterator[None]:
        """While it is open, the model is as it was before training; or only what is called so in a checkpoint."""
        learned = self.model.trained_state()
        changed = self.start if names is None else {name: self.start[name] for name in names}
        self.model.load_trained_state({**learned, **changed})
        try:
            yield
        finally:
            self.model.load_trained_state(learned)


def _values(maps: Tensor) -> HeatMap:
    values: HeatMap = torch.nan_to_num(maps).cpu().numpy()
    return values


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
    if model.state_tensors() and results.get("evaluated_from") != "untrained":
        source = Path(results["evaluated_from"]) if results.get("evaluated_from") else folder
        path = checkpoints.to_test(source / "prompt_learner", results.get("load_epoch"), cfg.TEST.FINAL_MODEL)
        model.load_trained_state(checkpoints.read_checkpoint(path)["state_dict"], str(path))
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
