"""The trainer of every method: it builds data, backbone and model, steps, saves and resumes, tests and records.

A method states its config node and how its model is made (`build_method`); the rest is here, top to bottom in the order
of a run. It runs on either engine (`dassl` is the real one, or ours).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from dassl.data import DataManager
from dassl.data.data_manager import build_data_loader
from dassl.data.transforms import build_transform
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import set_random_seed
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures, backbone_of, check_input, require_backbone
from xcoop.backbones.openai import RESNETS, no_tokens
from xcoop.concepts import ConceptBank
from xcoop.concepts.bank import load_dataset_bank
from xcoop.config.augmentation import FIXED, KEY, label_keeping
from xcoop.config.plugins import check_settings, own_view
from xcoop.engine.data import begin_epoch, deploys_best, require_validation, with_workers_that_exist
from xcoop.engine.parts import PRECISIONS, number_formats
from xcoop.engine.tools import restore_rng, rng_state
from xcoop.methods import together
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.prompts import DEFAULT, POSITIONS
from xcoop.moved import accept_instance_build
from xcoop.results import checkpoints
from xcoop.results.folder import check_free, save_config
from xcoop.results.record import UNTRAINED, Origin, write_run
from xcoop.training.feature_cache import FeatureStore
from xcoop.training.finite import FiniteWatch, Noted
from xcoop.training.graph import steps_of
from xcoop.training.images import Images, decoded_once
from xcoop.training.step import Step
from xcoop.training.tracking import Clock, Tracker, check_tracking
from xcoop.utils import process_cache
from xcoop.utils.image_memory import image_memory
from xcoop.utils.reading import read_json
from xcoop.utils.rules import TEMPLATE, TEXT, Rule, number, one_of, whole

logger = logging.getLogger(__name__)


class PromptTrainer(TrainerX):
    """Base of the trainers.

    Attributes:
        node: name of the config node below TRAINER; `register_trainer` sets it.
        settings: that node.
        backbone: the CLIP below it.
        model: the method.
        bank: the concept bank, for methods that use one.
        origin: what the record says of how the run was started; whoever starts it sets this (`xcoop.runs.train`).
        transforms: the names of INPUT.TRANSFORMS that are used.
        left_out: those that would change labels of the dataset, each with the reason.
    """

    node: str = ""
    trains: bool = True  # whether it learns from images, in epochs or at once
    side_by_side: bool = False  # whether a step is `encode_prompts` and little else; see `xcoop.methods.together`
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
    train_loader_x: Any
    val_loader: Any
    test_loader: Any
    optim: Any  # None where nothing is trained in steps
    sched: Any
    best_result: float

    # What a method states.

    @classmethod
    def build_method(cls, cfg: Any, backbone: Backbone, task: Task) -> PromptModel:
        """Makes the method's model, for a training or to load a finished run into.

        Args:
            cfg: the run's merged config.
            backbone: frozen, on the device.
            task: classes, concept bank, template, and the number of training images.
        """
        raise NotImplementedError(f"{cls.__name__} has to say by build_method() how its model is made")

    @classmethod
    def uses_bank(cls, cfg: Any) -> bool:
        """Whether the concept bank is needed."""
        return False

    @classmethod
    def learns_classes(cls, cfg: Any) -> bool:
        """Whether what is learned belongs to the classes of the training, and cannot be used for others."""
        return bool(cfg.TRAINER[cls.node].get("CSC", False))

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        """Refuses settings that could not work, before anything is loaded."""
        check_settings(cfg, cls.node)
        if name := cfg.MODEL.BACKBONE.NAME:
            require_backbone(name)
        if cls.needs_vit and name in RESNETS and not cfg.MODEL.BACKBONE.get("PATH", ""):  # a file may hold a ViT
            raise ValueError(no_tokens(name, cls.__name__))
        if cfg.OPTIM.STAGED_LR:
            raise ValueError("OPTIM.STAGED_LR is True; methods that learn prompts have no layers to tell apart: False")
        if cfg.WANDB.PROJECT:
            check_tracking(cfg)

    # Building.

    def __init__(self, cfg: Any) -> None:
        self.clock = Clock()
        self.bank: ConceptBank | None = None
        self.origin = Origin()
        self.tracker: Tracker | None = None
        # Folder and epoch of the weights that a test is of (UNTRAINED: the start); None once this run has trained.
        self._evaluated: tuple[str | None, int | None] | None = (UNTRAINED if self.trains else None), None
        # As the programme made it, in which a key of ours may mean something else (see `own_view`), for its data.
        self._given = with_workers_that_exist(cfg)
        with self.clock.phase("build"):
            super().__init__(own_view(cfg, self.node))

    @property
    def settings(self) -> Any:
        """The method's own config node."""
        return self.cfg.TRAINER[self.node]

    @property
    def runs_at_once(self) -> int:
        """How many runs were trained side by side, this one included; see `xcoop.methods.together`."""
        seat = self.model.seat
        return 1 if seat is None else len(seat.meeting.seats)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by phase: build, features, train, test."""
        return self.clock.seconds

    def build_data_loader(self) -> None:
        """The engine's loaders, with no more workers than CPUs; their number changes nothing (see `sample_seed`).

        Without augmentation, training images go through the transform of the test images. (The engine's own training
        transform would squeeze an image that is not square; its features would not be those of the test.)
        """
        own, given = self.cfg, self._given
        dm = self.dm = DataManager(given, dataset_wrapper=Images)  # the programme's own dataset reads its own keys
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
        require_validation(own, self.val_loader)

    @property
    def train_images_are_fixed(self) -> bool:
        """Whether an image looks the same in every epoch."""
        return FIXED.issuperset(self.transforms) and self.cfg.DATALOADER.K_TRANSFORMS == 1

    def build_model(self) -> None:
        """Loads the backbone, makes the method, and hands what it trains to optimiser and schedule."""
        cfg, dataset = self.cfg, self.dm.dataset
        backbone = self.backbone = backbone_of(cfg, self.device)
        backbone.recompute = cfg.TRAIN.RECOMPUTE_TOWER
        check_input(cfg, backbone)
        classnames = list(dataset.classnames)
        if self.uses_bank(cfg):
            self.bank = load_dataset_bank(cfg, dataset).for_classes(classnames)
            logger.info("concept bank %s", self.bank.summary())
        task = Task(classnames, self.bank, getattr(dataset, "template", DEFAULT), len(dataset.train_x))
        self._seed()
        self.model = self.build_method(cfg, backbone, task).to(self.device)
        if cfg.MODEL.INIT_WEIGHTS:
            self._load(Path(cfg.MODEL.INIT_WEIGHTS))
        self.finite, self.steps = FiniteWatch(self.device), steps_of(cfg.TRAIN.CUDA_GRAPH, self.device)
        self.dtype, self.scaler = number_formats(self.settings.get("PREC", "fp32"), self.device)
        batch_size = cfg.DATALOADER.TEST.BATCH_SIZE
        self.store = FeatureStore(backbone, self.device, self.model.needs_patches, batch_size, cfg.FEATURES)
        self.images = image_memory(cfg.FEATURES.IMAGES_MB)
        self.optim = self.sched = None
        groups = self.model.parameter_groups(cfg.OPTIM.LR)
        for group in groups:
            count = sum(parameter.numel() for parameter in group["params"])
            size = f"{count:,} parameters" if count else "as many parameters as will be fitted"
            logger.info("training %s: %s at lr %g", group.get("name", "prompts"), size, group["lr"])
        if groups:
            self.optim = build_optimizer(groups, cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        else:
            self.max_epoch = 0  # nothing to train in steps
        self.register_model("prompt_learner", self.model, self.optim, self.sched)

    def _seed(self) -> None:
        """Starts the generators anew, so that a run does not depend on what was drawn before (or found in a cache)."""
        if self.cfg.SEED >= 0:
            set_random_seed(self.cfg.SEED)

    # Training.

    def train(self) -> None:
        """All epochs, then the test."""
        self._evaluated = None
        self.model.seat = together.current() if self.side_by_side and self.model.text_tower_frozen else None
        with self.clock.phase("train"):
            super().train()

    def before_train(self) -> None:
        """Fits or resumes what there is, and replaces images by their features where that is possible."""
        check_free(Path(self.output_dir), self.cfg, self.origin)
        self._seed()
        self._fit()
        super().before_train()
        save_config(Path(self.output_dir), self.cfg)  # not before the checkpoint that is there was found to fit
        if self.model.image_tower_frozen:  # cached features draw no seeds for workers, so images must not
            for loader in filter(None, (self.train_loader_x, self.val_loader, self.test_loader)):
                loader.generator = torch.Generator()
        if self.max_epoch:
            self.train_loader_x = self._cached(self.train_loader_x, fixed=self.train_images_are_fixed)

    def before_epoch(self) -> None:
        """Tells the training images which epoch it is (Dassl does not), and writes each group's rate, if several."""
        begin_epoch(self.train_loader_x, self.epoch)
        groups = self.optim.param_groups
        for group in groups if len(groups) > 1 else []:
            self.write_scalar(f"train/lr {group['name']}", group["lr"], self.epoch)

    def get_current_lr(self, names: Any = None) -> float:
        """The rate that the log shows: that of the prompts, or else the largest of all groups."""
        groups = self.optim.param_groups
        prompts = [group for group in groups if group.get("name") == "prompts"]
        return max(float(group["lr"]) for group in prompts or groups)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step (`xcoop.training.step`); TRAINER.<node>.CLIP_GRAD_NORM limits the gradients, 0 is off.

        Returns:
            What the log shows, the loss and its parts where there are several: scalar tensors, numbers on a CPU.
        """
        step = Step(self.model, self.optim, self.dtype, self.scaler, self.settings.get("CLIP_GRAD_NORM", 0.0))
        shown = self.steps(step, *self.parse_batch_train(batch), partial(self._note, batch))
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        free = self.device.type == "cpu"  # elsewhere, to read a number is to wait for the device
        return {name: value.item() for name, value in shown.items()} if free else shown

    def _note(self, batch: dict[str, Any], what: str, value: Tensor) -> None:
        step = self.batch_idx + 1
        due = step % self.cfg.TRAIN.PRINT_FREQ == 0 or step == self.num_batches  # before anything of an epoch is saved
        self.finite.note(Noted(what, f"epoch {self.epoch + 1}, batch {step}", batch["impath"], value), due)

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[ImageFeatures, Tensor]:
        """Image features (computed here, or cached) and labels (B,)."""
        with self.model.computing_in(self.dtype):
            return self._features(batch), batch["label"].to(self.device, non_blocking=True)

    def _features(self, batch: dict[str, Any]) -> ImageFeatures:
        cached: ImageFeatures | None = batch.get("features")
        return self.model.encode_images(batch["img"].to(self.device, non_blocking=True)) if cached is None else cached

    def _cached(self, loader: Any, fixed: bool = True, again: bool = True) -> Any:
        """A loader of features in the place of one of images, where the config and the method allow it.

        If they do not, or the images are not `fixed`, those that will be asked for `again` are decoded once.
        """
        if fixed and self.model.image_tower_frozen:
            with self.clock.phase("features"):
                loader = self.store.loader(loader)
        return decoded_once(loader, self.images) if again else loader

    # Fitting: what a method computes from all training images, not batch by batch.

    def _fit(self) -> None:
        """Fits before the epochs, unless a checkpoint holds the result; without epochs, that is the whole training."""
        if not self.model.fitted or self._to_resume(self.cfg.RESUME or self.cfg.OUTPUT_DIR):
            return
        self.model.prepare(self._training(), self._validation())
        shapes = ", ".join(f"{name} {tuple(getattr(self.model, name).shape)}" for name in self.model.fitted)
        logger.info("fitted to %d training images: %s", len(self.dm.dataset.train_x), shapes)
        if not self.max_epoch:
            self.save_model(-1, self.output_dir, is_best=deploys_best(self.cfg))

    def after_train(self) -> None:
        """Completes the model that will be tested, in its checkpoint, too; then the test."""
        if self.model.fitted and self.max_epoch:
            name = checkpoints.BEST if deploys_best(self.cfg) else checkpoints.epoch_name(self.max_epoch)
            path = Path(self.output_dir, "prompt_learner", name)
            content = self._load(path)
            self.model.conclude(self._training(), self._validation())
            checkpoints.write_checkpoint(path, content | {"state_dict": self.model.trained_state()})
        super().after_train()

    def _training(self) -> LabelledFeatures:
        """Each training image once, preprocessed as the test images are."""
        images = build_data_loader(
            self._given,
            data_source=self.dm.dataset.train_x,
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            tfm=self.test_loader.dataset.transform,
            is_train=False,
        )
        return self._labelled(images)

    def _validation(self) -> LabelledFeatures | None:
        return None if self.val_loader is None else self._labelled(self.val_loader)

    def _labelled(self, loader: Any) -> LabelledFeatures:
        """All images of a loader, in the order of its dataset."""
        with self.clock.phase("features"):
            loader = self.store.kept(loader)
        return LabelledFeatures(loader.features, loader.labels.to(self.device))

    # Checkpoints: only what was trained, and exactly where it was.

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Writes what was trained, and what a resumed run needs to go on as if it had never stopped."""
        if not self.model.state_tensors():
            return
        stepped = {} if self.optim is None else checkpoints.optimiser_state(self.optim, epoch + 1)
        content = {
            "state_dict": self.model.trained_state(),
            "epoch": epoch + 1,
            "max_epoch": self.max_epoch,
            **stepped,
            "scaler": self.scaler.state_dict() or None,
            "val_result": None if val_result is None else float(val_result),
            "best_result": float(self.best_result),
            "rng": rng_state(),
            "trainer": type(self).__name__,
            "classnames": self.model.classnames,
            **self.extra_state(),
        }
        folder = Path(directory, "prompt_learner")
        path = folder / (model_name or checkpoints.epoch_name(epoch + 1))
        checkpoints.write_checkpoint(path, content)
        logger.info("Checkpoint saved to %s", path)
        if is_best:
            checkpoints.write_checkpoint(folder / checkpoints.BEST, content)

    def extra_state(self) -> dict[str, Any]:
        """What else a resumed run needs; a method that has something extends this and `restore`."""
        return {}

    def resume_model_if_exist(self, directory: str) -> int:
        """Continues from the last checkpoint below `directory`; the number of epochs that are done.

        Raises:
            ValueError: it does not belong to such a run, or is damaged; or RESUME names a folder without one.
        """
        path = self._to_resume(directory)
        if path is None:
            if self.cfg.RESUME:
                checkpoints.require_resumable(self.cfg.RESUME)
            logger.info("No checkpoint found, train from scratch")
            return 0
        logger.info("Found checkpoint at %s (will resume training)", directory)
        content = self._load(path)
        checkpoints.require_same_length(path, content, self.max_epoch)
        try:
            self.restore(content)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no checkpoint to resume from ({type(error).__name__}: {error})") from error
        return int(content["epoch"])

    def _to_resume(self, directory: str) -> Path | None:
        """The checkpoint to go on from; None if there is none, or nothing that one could hold."""
        return checkpoints.latest_checkpoint(Path(directory, "prompt_learner")) if self.model.state_tensors() else None

    def restore(self, content: dict[str, Any]) -> None:
        """Puts all but the weights to where a checkpoint has them."""
        if self.optim is not None:
            checkpoints.restore_optimiser(self.optim, self.sched, content)
        if content.get("scaler"):
            self.scaler.load_state_dict(content["scaler"])
        self.best_result = float(content.get("best_result", self.best_result))
        if "rng" in content:
            restore_rng(content["rng"])

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Loads what was trained: the given epoch; else the best one; else, without a best one, the last.

        Contexts that hold for all classes can be loaded for other classes.
        """
        if directory and self._evaluated:  # after a training the engine loads its best epoch here: no other run's
            self._evaluated = directory, epoch
        if not directory or not self.model.state_tensors():
            logger.info("load_model() is skipped: nothing trained is given or needed")
            return
        path = checkpoints.to_test(Path(directory, "prompt_learner"), epoch, self.cfg.TEST.FINAL_MODEL)
        content = self._load(path)
        logger.info('Loading weights to prompt_learner from "%s" (epoch = %s)', path, content["epoch"])

    def _load(self, path: Path) -> dict[str, Any]:
        content = checkpoints.read_checkpoint(path)
        if self.model.class_specific:
            checkpoints.require_same_classes(path, content, self.model.classnames)
        self.model.load_trained_state(content["state_dict"], str(path))
        return content

    # Testing, and the record.

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluates; the final evaluation (no `split` given) writes predictions and results, too.

        Returns:
            Accuracy in percent.
        """
        if (split or self.cfg.TEST.SPLIT) == "val":
            self.val_loader = self._cached(self.val_loader)
        else:
            self.test_loader = self._cached(self.test_loader, again=process_cache.current() is not None)  # others'
        self._labels: list[Tensor] = []
        self._probabilities: list[Tensor] = []
        self._paths: list[str] = []
        with self.clock.phase("test"):
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
        folder = Path(self.output_dir)
        if self._evaluated:  # nothing was trained
            source, epoch = self._evaluated
            self.origin = replace(self.origin, evaluated_from=source, load_epoch=epoch)
            check_free(folder, self.cfg, self.origin)
            save_config(folder, self.cfg)
        path = write_run(self, torch.cat(self._labels).numpy(), torch.cat(self._probabilities).numpy(), self._paths)
        if self.tracker is not None:
            self.tracker.summarise(read_json(path)["metrics"])

    # TensorBoard's writer, and the tracker beside it.

    def init_writer(self, log_dir: str) -> None:
        """Opens TensorBoard's writer and, if it is asked for, the tracker."""
        super().init_writer(log_dir)
        if self.tracker is None and self.cfg.WANDB.PROJECT:
            self.tracker = Tracker(self.cfg, self.output_dir)

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Writes a number to whatever is open."""
        super().write_scalar(tag, scalar_value, global_step)
        if self.tracker is not None:
            self.tracker.log(tag, float(scalar_value), global_step or 0)

    def close_writer(self) -> None:
        """Closes both."""
        super().close_writer()
        if self.tracker is not None:
            self.tracker.finish()
            self.tracker = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        accept_instance_build(cls)
