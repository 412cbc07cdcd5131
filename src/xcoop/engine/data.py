"""The data of a run: images with labels, datasets of them, and the loaders that give batches.

Loaders draw what augments an image from (SEED, epoch, index) alone: neither workers nor batches change it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler
from torchvision import transforms as T
from yacs.config import CfgNode

from xcoop.engine.imports import needs_dassl
from xcoop.engine.parts import INTERPOLATION_MODES, build_transform
from xcoop.engine.tools import Registry, check_isfile, read_image
from xcoop.utils.console import unknown

logger = logging.getLogger(__name__)

DATASET_REGISTRY = Registry("DATASET")

Transform = Callable[[Any], Any]


class Datum:
    """An image file, which must exist, with its label and domain (from 0) and the class's name."""

    # CoOp pickles these into its few-shot files: under Dassl's own path both engines read each other's.
    __module__ = "dassl.data.datasets.base_dataset"

    impath = property(attrgetter("_impath"))
    label = property(attrgetter("_label"))
    domain = property(attrgetter("_domain"))
    classname = property(attrgetter("_classname"))

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise AssertionError(f"an image path must be a string, not {impath!r}")
        if not check_isfile(impath):
            raise AssertionError(f"no image file at {impath!r}")
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    def __repr__(self) -> str:
        return f"Datum({self._impath!r}, label={self._label}, domain={self._domain}, classname={self._classname!r})"


Items = list[Datum]


class DatasetBase:
    """Labelled training images, validation and test images; `train_u` is there, and nothing of this engine reads it.

    Datasets of prompt learners say some of this otherwise: they set what lies behind a property, or count and name
    the classes by methods of their own.

    Raises:
        ValueError: there is no labelled image.
    """

    dataset_dir: str = ""  # its folder's name below DATASET.ROOT
    train_x = property(attrgetter("_train_x"))
    train_u = property(attrgetter("_train_u"))
    val = property(attrgetter("_val"))
    test = property(attrgetter("_test"))
    num_classes = property(attrgetter("_num_classes"))
    lab2cname = property(attrgetter("_lab2cname"))
    classnames = property(attrgetter("_classnames"))  # in the order of the class indices

    def __init__(
        self,
        train_x: Items | None = None,
        train_u: Items | None = None,
        val: Items | None = None,
        test: Items | None = None,
    ) -> None:
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        # A class without a training image keeps its place among the names if another split shows it: were it left
        # out, all later names would move down by one.
        labelled = [item for split in (train_x, val, test) for item in split or ()]
        if not labelled:
            raise ValueError("a dataset without a single labelled image")
        self._num_classes = self.get_num_classes(labelled)
        self._lab2cname, self._classnames = self.get_lab2cname(labelled)

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum]) -> int:
        """The greatest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """The class names by label, and as a list in that order."""
        names = dict(sorted({item.label: item.classname for item in data_source}.items()))
        return names, list(names.values())

    def generate_fewshot_dataset(
        self, *data_sources: Items, num_shots: int = -1, repeat: bool = False
    ) -> Items | list[Items] | tuple[Items, ...]:
        """K random images of each class, drawn with Python's global generator.

        Args:
            data_sources: lists of images, each treated alone.
            num_shots: K; below 1, the sources come back as they are.
            repeat: a class with fewer than K images gives K with repetition instead of all that it has.

        Returns:
            One list for one source; for several, one each.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        drawn: list[Items] = []
        for source in data_sources:
            drawn.append([])
            for items in self.split_dataset_by_label(source).values():
                if len(items) >= num_shots:
                    drawn[-1] += random.sample(items, num_shots)
                else:
                    drawn[-1] += random.choices(items, k=num_shots) if repeat else items
        return drawn[0] if len(drawn) == 1 else drawn

    def split_dataset_by_label(self, data_source: Items) -> defaultdict[int, Items]:
        """Label -> its images, labels in the order of their first image."""
        groups: defaultdict[int, Items] = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """What datasets of several domains call first: they are Dassl's own."""
        raise NotImplementedError(needs_dassl(f"{type(self).__name__}, a dataset of several domains,"))


def build_dataset(cfg: CfgNode) -> DatasetBase:
    """The dataset that `cfg.DATASET.NAME` names; ValueError if it is not registered."""
    dataset: DatasetBase = DATASET_REGISTRY.build(cfg.DATASET.NAME, cfg)
    return dataset


# Images, as a loader gives them.


class DatasetWrapper(Dataset):
    """Opens and transforms images.

    Args:
        cfg: the nodes INPUT and DATALOADER say how.
        data_source: the images.
        transform: one transform (the item's `img`), several (`img`, `img2`, ...), or None for the PIL image.
        is_train: give K views of an image if DATALOADER.K_TRANSFORMS asks for more than one.

    Raises:
        ValueError: several views are asked for without a transform.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Transform | Sequence[Transform] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS {self.k_tfm}: no transform to make several views with")
        node = cfg.INPUT
        steps = [T.Resize(list(node.SIZE), INTERPOLATION_MODES[node.INTERPOLATION]), T.ToTensor()]
        if "normalize" in node.TRANSFORMS:
            steps.append(T.Normalize(list(node.PIXEL_MEAN), list(node.PIXEL_STD)))
        self.to_tensor = T.Compose(steps)  # what `img0` is made with

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        image = read_image(item.impath)
        output: dict[str, Any] = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        if self.transform is None:
            output["img"] = image
        else:
            transforms = [self.transform] if callable(self.transform) else self.transform
            for number, transform in enumerate(transforms, 1):
                views = [transform(image) for _ in range(self.k_tfm)]
                output["img" if number == 1 else f"img{number}"] = views[0] if self.k_tfm == 1 else views
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed, in [0, 2**64), of everything that is drawn to augment one image once: the only definition of it.

    It is the first 8 bytes, most significant first, of the SHA-256 of the ASCII text "<seed> <epoch> <index>". So the
    draws of a sample depend on nothing else: not on workers, batches, other samples, or where a run was resumed.
    Several views of one image are drawn one after the other from this one seed.

    Args:
        seed: SEED of the run.
        epoch: from 0.
        index: of the image in the list of training images, from 0; an epoch that goes through the list again counts on.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {index}".encode()).digest()[:8], "big")


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's CPU generators start at `seed`, in [0, 2**64); then they are as before."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs, too
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


class Seeded(Dataset):
    """Mixed into a `DatasetWrapper`, ours or Dassl's: draws for an image depend on SEED, epoch and index alone.

    With a SEED below 0 they are other ones in each process.
    """

    def __init__(self, cfg: CfgNode, *args: Any, **kwargs: Any) -> None:
        super().__init__(cfg, *args, **kwargs)  # type: ignore[call-arg]
        self.seed = cfg.SEED if cfg.SEED >= 0 else random.getrandbits(32)
        # Epoch and pass; in shared memory, so that workers which outlive an epoch see them.
        self._at = torch.tensor([0, -1]).share_memory_()

    def begin_epoch(self, epoch: int) -> None:
        """Says which epoch begins, from 0."""
        self._at.copy_(torch.tensor([epoch, -1]))

    def begin_pass(self) -> None:
        """Says that the loader starts again; the images of a second pass in one epoch are drawn anew."""
        self._at[1] += 1

    def __getitem__(self, index: int) -> Any:
        epoch, lap = self._at.tolist()
        with drawing(sample_seed(self.seed, epoch, max(lap, 0) * len(self) + index)):  # type: ignore[arg-type]
            return super().__getitem__(index)


class SeededWrapper(Seeded, DatasetWrapper):
    """The images of this engine's loaders."""


def worker_start(num_workers: int) -> str | None:
    """How the workers of a loader start: by a fork on Linux, so that they share what is kept in memory.

    Python 3.14 starts them from a server that knows neither these images nor the transforms. Elsewhere, and without
    workers, it is the system's own way (None).
    """
    return "fork" if num_workers and sys.platform == "linux" else None


class SeededLoader(DataLoader):
    """Tells `Seeded` images that a pass begins; other images are left alone."""

    def __iter__(self) -> Any:
        if isinstance(self.dataset, Seeded):
            self.dataset.begin_pass()
        return super().__iter__()


def begin_epoch(loader: Any, epoch: int) -> None:
    """Tells the images of a loader which epoch begins, from 0, if they are `Seeded`."""
    dataset = getattr(loader, "dataset", None)  # a loader of cached features has none
    if isinstance(dataset, Seeded):
        dataset.begin_epoch(epoch)


# Loaders.


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """The sampler of that name over `data_source`; what only Dassl's own samplers read is taken, and left alone.

    Raises:
        ValueError: the sampler is unknown, or Dassl's alone.
    """
    samplers: dict[str, Callable[[Any], Sampler]] = {
        "RandomSampler": RandomSampler,
        "SequentialSampler": SequentialSampler,
    }
    if sampler_type in ("RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler"):
        raise ValueError(needs_dassl(sampler_type))
    if sampler_type not in samplers:
        raise ValueError(unknown("sampler", sampler_type, samplers))
    return samplers[sampler_type](data_source or [])


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Transform | Sequence[Transform] | None = None,
    is_train: bool = True,
    dataset_wrapper: type[Dataset] | None = None,
) -> DataLoader:
    """A loader over `data_source`; for training, an incomplete last batch is left out, unless it is the only one.

    Args:
        cfg: the run's config.
        sampler_type: RandomSampler or SequentialSampler; see `build_sampler`.
        data_source: the images.
        batch_size: images a batch.
        n_domain: for Dassl's own samplers.
        n_ins: for Dassl's own samplers.
        tfm: the transform or transforms.
        is_train: for training.
        dataset_wrapper: a class in place of `SeededWrapper`.

    Raises:
        AssertionError: there is not one batch.
    """
    if not data_source:
        raise AssertionError(f"no batch can be made of 0 images (batch size {batch_size})")
    wrapper: Any = dataset_wrapper or SeededWrapper
    return SeededLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        multiprocessing_context=worker_start(cfg.DATALOADER.NUM_WORKERS),
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )


class DataManager:
    """Builds the dataset that the config names, and a loader for each of its splits.

    Some programmes' own managers call no `super().__init__`: they set what lies behind the properties.

    Args:
        cfg: the run's config.
        custom_tfm_train: a transform in place of the config's for training.
        custom_tfm_test: the same for validation and test.
        dataset_wrapper: a class in place of `SeededWrapper`.
    """

    num_classes = property(attrgetter("_num_classes"))
    num_source_domains = property(attrgetter("_num_source_domains"))
    lab2cname = property(attrgetter("_lab2cname"))

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Transform | Sequence[Transform] | None = None,
        custom_tfm_test: Transform | Sequence[Transform] | None = None,
        dataset_wrapper: type[Dataset] | None = None,
    ) -> None:
        dataset = self.dataset = build_dataset(cfg)
        transforms: dict[bool, Any] = {}
        for is_train, custom in ((True, custom_tfm_train), (False, custom_tfm_test)):
            if custom is not None:
                print(f"* Using custom transform for {'training' if is_train else 'testing'}")
            transforms[is_train] = build_transform(cfg, is_train=is_train) if custom is None else custom

        def loader(items: Items | None, node: CfgNode, is_train: bool) -> DataLoader:
            return build_data_loader(
                cfg,
                sampler_type=node.SAMPLER,
                data_source=items,
                batch_size=node.BATCH_SIZE,
                tfm=transforms[is_train],
                is_train=is_train,
                dataset_wrapper=dataset_wrapper,
            )

        self.train_loader_x = loader(dataset.train_x, cfg.DATALOADER.TRAIN_X, is_train=True)
        self.train_loader_u = None  # unlabelled images are Dassl's alone
        self.val_loader = loader(dataset.val, cfg.DATALOADER.TEST, is_train=False) if dataset.val else None
        self.test_loader = loader(dataset.test, cfg.DATALOADER.TEST, is_train=False)
        self._num_classes = dataset.num_classes
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self._lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Prints a table of what was loaded."""
        rows = [["Dataset", cfg.DATASET.NAME], ["# classes", f"{self.num_classes:,}"]]
        splits = {name: getattr(self.dataset, name) for name in ("train_x", "val", "test")}
        rows += [[f"# {name}", f"{len(items):,}"] for name, items in splits.items() if items]
        print(tabulate(rows))


# What of the config is asked before a run.


def with_workers_that_exist(cfg: CfgNode) -> CfgNode:
    """The config with NUM_WORKERS capped to the CPUs of this process."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = cfg.DATALOADER.NUM_WORKERS
    if wanted <= cpus:
        return cfg
    logger.info("DATALOADER.NUM_WORKERS %d: this machine has %d CPUs, so %d", wanted, cpus, cpus)
    capped = cfg.clone()
    capped.defrost()
    capped.DATALOADER.NUM_WORKERS = cpus
    capped.freeze()
    return capped


def deploys_best(cfg: CfgNode) -> bool:
    """Whether the model that is tested is the one that was best on the validation images."""
    return bool(cfg.TEST.FINAL_MODEL == "best_val" and not cfg.TEST.NO_TEST)


def require_validation(cfg: CfgNode, val_loader: Any) -> None:
    """ValueError if there are no validation images, and the config wants to choose or to test a model by them.

    Dassl takes the test images then.
    """
    if val_loader is None and (cfg.TEST.FINAL_MODEL == "best_val" or cfg.TEST.SPLIT == "val"):
        raise ValueError(
            f"{cfg.DATASET.NAME} has no validation split here, which TEST.FINAL_MODEL {cfg.TEST.FINAL_MODEL!r} and "
            f"TEST.SPLIT {cfg.TEST.SPLIT!r} ask for; the test split is never used to choose a model: take "
            "TEST.FINAL_MODEL last_step and TEST.SPLIT test"
        )
