"""What all prompt trainers share: loading, freezing, stepping, checkpoints, cached features, testing.

A trainer states its config node and how its model is made; everything else is here. It runs on either engine
(`dassl` is the real one, or ours).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from dassl.data import DataManager, DatasetWrapper
from dassl.data.transforms import build_transform
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import set_random_seed
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures, backbone_of, require_backbone
from xcoop.backbones.deep_prompts import RESNETS, no_tokens
from xcoop.concepts import ConceptBank
from xcoop.config.augmentation import FIXED, KEY, label_keeping
from xcoop.config.defaults import check_settings
from xcoop.config.plugins import own_view
from xcoop.engine.data import Seeded, begin_epoch
from xcoop.methods.model import PromptModel
from xcoop.methods.prompts import POSITIONS
from xcoop.methods.templates import DEFAULT
from xcoop.results.folder import check_free, claim
from xcoop.results.record import UNTRAINED, Origin, write_run
from xcoop.training.checks import check_input, load_dataset_bank, state_bank, with_workers_that_exist
from xcoop.training.feature_cache import FeatureLoader, FeatureStore
from xcoop.training.fitting import Fitting
from xcoop.training.precision import PRECISIONS, Precision
from xcoop.training.tracking import Tracked, check_tracking
from xcoop.utils.reading import read_json
from xcoop.utils.rules import TEMPLATE, TEXT, Rule, number, one_of, whole

__all__ = ["PromptModel", "PromptTrainer"]

logger = logging.getLogger(__name__)


class Images(Seeded, DatasetWrapper):
    """The engine's images, ours or Dassl's."""


class PromptTrainer(Tracked, Fitting, TrainerX):
    """Base of the trainers.

    Attributes:
        node: name of the config node below TRAINER.
        settings: that node.
        backbone: the CLIP below it.
        model: the method.
        bank: the concept bank, for methods that use one.
        template: the dataset's sentence for a class name, with {} for it.
        transforms: the names of INPUT.TRANSFORMS that are used.
        left_out: those that would change labels of the dataset, each with the reason.
        seconds: wall time by phase: build, features, train, test.
    """

    node: str = ""
    trains: bool = True  # whether it learns from images, in epochs or at once
    needs_vit: bool = False  # whether the method works inside a vision transformer: it has no configs for ResNets
    node_rules: ClassVar[dict[str, Rule]] = {  # what keys take that mean the same in every node
        "PREC": one_of(*PRECISIONS),
        "N_CTX": whole(1, 1000),  # no text tower takes more tokens
        "CTX_INIT": TEXT,
        "CLASS_TOKEN_POSITION": one_of(*POSITIONS),
        "TEMPLATE": TEMPLATE,
        "CLIP_GRAD_NORM": number(0),
        "NORM_LR_MULT": number(0),
    }
    template: str = DEFAULT
    train_loader_x: Any
    val_loader: Any
    test_loader: Any

    def __init__(self, cfg: Any) -> None:
        self.seconds = dict.fromkeys(("build", "features", "train", "test"), 0.0)
        self.bank: ConceptBank | None = None
        self.origin = Origin()
        self._loaded = (UNTRAINED if self.trains else None), None  # whose weights are tested, if nothing is trained
        self._given = cfg
        with self.phase("build"):
            super().__init__(own_view(cfg, self.node))

    # What a method states.

    def build_method(self, backbone: Backbone, classnames: list[str], bank: ConceptBank | None) -> PromptModel:
        """Makes the method's model; `backbone` is frozen and on the device."""
        raise NotImplementedError

    def uses_bank(self) -> bool:
        """Whether the concept bank is needed; asked before the model is built."""
        return False

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Whether what is learned belongs to the classes of the training, and cannot be used for others."""
        return bool(cfg.TRAINER[cls.node].get("CSC", False))

    @classmethod
    def model_of(
        cls, cfg: Any, backbone: Backbone, classnames: list[str], bank: ConceptBank | None, template: str = DEFAULT
    ) -> PromptModel:
        """The method's model without data, loaders and optimiser: what a finished run is loaded into.

        Args:
            cfg: the run's merged config.
            backbone: frozen, on the device.
            classnames: in the order of the labels.
            bank: of these classes; only methods that use one ask for it.
            template: the dataset's sentence for a class name.
        """
        shell = cls.__new__(cls)
        shell.cfg, shell.bank, shell.template = cfg, None, template
        return shell.build_method(backbone, classnames, bank if shell.uses_bank() else None)

    # Building.

    @property
    def settings(self) -> Any:
        """The method's own config node."""
        return self.cfg.TRAINER[self.node]

    def check_cfg(self, cfg: Any) -> None:
        """Refuses settings that could not work, before anything is loaded."""
        check_settings(cfg, self.node)
        if cfg.MODEL.BACKBONE.NAME:
            require_backbone(cfg.MODEL.BACKBONE.NAME)
        name = cfg.MODEL.BACKBONE.NAME
        if self.needs_vit and name in RESNETS and not cfg.MODEL.BACKBONE.get("PATH", ""):  # a file may hold a ViT
            raise ValueError(no_tokens(name, type(self).__name__))
        if cfg.OPTIM.STAGED_LR:
            raise ValueError("OPTIM.STAGED_LR is True; methods that learn prompts have no layers to tell apart: False")
        check_tracking(cfg)

    def build_data_loader(self) -> None:
        """The engine's loaders, with no more workers than CPUs; their number changes nothing (see `sample_seed`).

        Without augmentation, training images go through the transform of the test images. (The engine's own training
        transform would squeeze an image that is not square; its features would not be those of the test.)
        """
        own, given = self.cfg, with_workers_that_exist(self._given)
        dm = self.dm = DataManager(given, dataset_wrapper=Images)  # the dataset may be the programme's, with its keys
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.transforms, self.left_out = label_keeping(own, dm.dataset)
        for name, why in self.left_out.items():
            logger.warning("%s is left out of INPUT.TRANSFORMS: %s (%s '[]' uses it all the same)", name, why, KEY)
        if self.left_out:
            self.train_loader_x.dataset.transform = build_transform(given, is_train=True, choices=self.transforms)
        if self.train_images_are_fixed:
            self.train_loader_x.dataset.transform = self.test_loader.dataset.transform
        if "val" in self._selecting_splits() and self.val_loader is None:
            raise ValueError(
                f"{own.DATASET.NAME} has no validation split, which TEST.FINAL_MODEL {own.TEST.FINAL_MODEL!r} and "
                f"TEST.SPLIT {own.TEST.SPLIT!r} ask for; the test split is never used to select a model"
            )

    @property
    def train_images_are_fixed(self) -> bool:
        """Whether an image looks the same in every epoch."""
        return FIXED.issuperset(self.transforms) and self.cfg.DATALOADER.K_TRANSFORMS == 1

    def build_model(self) -> None:
        """Loads the backbone, makes the method, and hands what it trains to optimiser and schedule."""
        cfg = self.cfg
        backbone = self.backbone = backbone_of(cfg, self.device)
        check_input(cfg, backbone)
        dataset = self.dm.dataset
        classnames = list(dataset.classnames)
        if self.uses_bank():
            self.bank = load_dataset_bank(cfg, dataset).for_classes(classnames)
            state_bank(self.bank)
        self.template = getattr(dataset, "template", DEFAULT)
        self._seed()
        self.model = self.build_method(backbone, classnames, self.bank).to(self.device)
        if cfg.MODEL.INIT_WEIGHTS:
            self._load(Path(cfg.MODEL.INIT_WEIGHTS))
        self.precision = Precision(self.settings.get("PREC", "fp32"), self.device)
        self.store = FeatureStore(backbone, self.device, self.model.needs_patches, cfg.FEATURES.DIR)
        self._build_optimiser()

    def _build_optimiser(self) -> None:
        groups = self.model.parameter_groups(self.cfg.OPTIM.LR)
        self.optim = self.sched = None
        if groups:
            for group in groups:
                count = sum(parameter.numel() for parameter in group["params"])
                numbers = f"{count:,}" if count else "yet to be fitted, all"
                logger.info("training %s: %s numbers at lr %g", group.get("name", "prompts"), numbers, group["lr"])
            self.optim = build_optimizer(groups, self.cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        else:
            self.max_epoch = 0  # nothing to train: straight to the test
        self.register_model("prompt_learner", self.model, self.optim, self.sched)

    # Training.

    def train(self) -> None:
        """All epochs, then the test."""
        self._since = time.perf_counter(), self.seconds["features"] + self.seconds["test"]
        super().train()
        self._clock_training()

    def _clock_training(self) -> None:
        """Sets `seconds["train"]`: what `train` took so far, less what is counted as another phase."""
        start, others = self._since
        spent = self.seconds["features"] + self.seconds["test"] - others
        self.seconds["train"] = time.perf_counter() - start - spent

    def before_train(self) -> None:
        """Fits or resumes what there is, and replaces images by their features where that is possible."""
        check_free(Path(self.output_dir), self.cfg, self.origin)
        self._seed()
        self._prepare()
        super().before_train()
        claim(Path(self.output_dir), self.cfg, self.origin)  # not before the checkpoint that is there was found to fit
        if self.model.image_tower_frozen:  # cached features draw no seeds for workers, so images must not
            for loader in filter(None, (self.train_loader_x, self.val_loader, self.test_loader)):
                loader.generator = torch.Generator()
        if self.max_epoch and self.train_images_are_fixed:
            self.train_loader_x = self._cached(self.train_loader_x)

    def after_train(self) -> None:
        """Sets what a method sets after its epochs, then tests."""
        self._conclude()
        super().after_train()

    def run_epoch(self) -> None:
        """One pass over the training images; Dassl does not tell them which epoch it is."""
        begin_epoch(self.train_loader_x, self.epoch)
        super().run_epoch()

    def before_epoch(self) -> None:
        """Writes the rate of each group, where there are several."""
        groups = self.optim.param_groups
        for group in groups if len(groups) > 1 else []:
            self.write_scalar(f"train/lr {group['name']}", group["lr"], self.epoch)

    def get_current_lr(self, names: Any = None) -> float:
        """The rate that the log shows: that of the prompts, or else the largest of all groups."""
        groups = self.optim.param_groups
        prompts = [group for group in groups if group.get("name") == "prompts"]
        return max(float(group["lr"]) for group in prompts or groups)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step; the numbers for the log."""
        features, labels = self.parse_batch_train(batch)
        with self.precision.autocast():
            parts = self.model.losses(features, labels)
            loss = self.model.loss(parts)
        self._require_finite(loss, "loss", batch)
        self._update(parts, batch)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        reported = {name: part for name, part in parts.items() if name in self.model.reported}
        if len(parts) - len(reported) == 1:  # the one other part is the loss
            parts = reported
        return {"loss": loss.item(), **{name: part.item() for name, part in parts.items()}}

    def _update(self, parts: dict[str, Tensor], batch: dict[str, Any]) -> None:
        """Backward, clipping (TRAINER.<node>.CLIP_GRAD_NORM, 0 is off), and one step of the optimiser."""
        self.optim.zero_grad()
        self.model.backward(parts, self.precision.backward)
        self.precision.unscale(self.optim)
        self.model.adjust_gradients()
        norm = self.model.gradient_norm()
        if self.precision.scaler is None:  # a scaler skips overflown steps by itself
            self._require_finite(norm, "gradient", batch)
        limit = self.settings.get("CLIP_GRAD_NORM", 0.0)
        if limit > 0:
            factor = (limit / (norm + 1e-6)).clamp(max=1.0)
            for parameter in self.model.trained_parameters().values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        self.precision.step(self.optim)

    def _require_finite(self, value: Tensor, what: str, batch: dict[str, Any]) -> None:
        if not torch.isfinite(value).all():
            raise FloatingPointError(
                f"{what} is {value.item()} in epoch {self.epoch + 1}, batch {self.batch_idx + 1}, with the images "
                f"{', '.join(batch['impath'])}; nothing of this epoch was saved. A lower OPTIM.LR may help"
            )

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[ImageFeatures, Tensor]:
        """Image features (computed here, or cached) and labels (B,)."""
        with self.precision.autocast():
            return self._features(batch), batch["label"].to(self.device)

    def _features(self, batch: dict[str, Any]) -> ImageFeatures:
        if "features" in batch:
            cached: ImageFeatures = batch["features"]
            return cached
        return self.model.encode_images(batch["img"].to(self.device))

    def _cached(self, loader: Any) -> Any:
        """A loader of features in the place of one of images, where the config and the method allow it."""
        if loader is None or isinstance(loader, FeatureLoader):
            return loader
        if not (self.cfg.FEATURES.CACHE and self.model.image_tower_frozen):
            return loader
        with self.phase("features"):
            return self.store.loader(loader, self.cfg.DATALOADER.TEST.BATCH_SIZE)

    # Testing.

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluates; the final evaluation (no `split` given) writes predictions and results, too.

        Returns:
            Accuracy in percent.
        """
        wanted = split or self.cfg.TEST.SPLIT
        if wanted == "val":
            self.val_loader = self._cached(self.val_loader)
        else:
            self.test_loader = self._cached(self.test_loader)
        self._labels: list[Tensor] = []
        self._probabilities: list[Tensor] = []
        self._paths: list[str] = []
        with self.phase("test"):
            accuracy: float = super().test(split)
        if split is None:
            self._record()
        return accuracy

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[ImageFeatures, Tensor]:
        """As in training, but always in 32 bit; labels and paths are kept for the record."""
        self._labels.append(batch["label"])
        self._paths.extend(batch["impath"])
        return self._features(batch), batch["label"].to(self.device)

    def model_inference(self, features: ImageFeatures) -> Tensor:
        """Logits (B, C) in 32 bit, whatever the training computed in; the probabilities are kept for the record."""
        logits = self.model.logits(features)
        self._probabilities.append(logits.softmax(1).cpu())
        return logits

    def _record(self) -> None:
        if hasattr(self, "_since"):
            self._clock_training()
        else:  # nothing was trained
            source, epoch = self._loaded
            self.origin = replace(self.origin, evaluated_from=source, load_epoch=epoch)
            claim(Path(self.output_dir), self.cfg, self.origin)
        path = write_run(self, torch.cat(self._labels).numpy(), torch.cat(self._probabilities).numpy(), self._paths)
        self.track_metrics(read_json(path)["metrics"])

    # Small things.

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the wall time of what is done inside to `seconds[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def _seed(self) -> None:
        """Starts the generators anew, so that a run does not depend on what was drawn before (or found in a cache)."""
        if self.cfg.SEED >= 0:
            set_random_seed(self.cfg.SEED)

    def _selecting_splits(self) -> set[str]:
        chosen = {"val"} if self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST else set()
        return chosen | {self.cfg.TEST.SPLIT}
