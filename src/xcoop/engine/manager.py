"""The dataset of a run, its transforms and its loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset

from xcoop.engine.batches import SeededLoader, SeededWrapper, Transform
from xcoop.engine.dataset import build_dataset
from xcoop.engine.datum import Datum
from xcoop.engine.samplers import build_sampler
from xcoop.engine.transforms import build_transform

if TYPE_CHECKING:
    from yacs.config import CfgNode


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
    """A loader over `data_source`.

    Args:
        cfg: the run's config.
        sampler_type: see `build_sampler`.
        data_source: the images.
        batch_size: images a batch.
        n_domain: see `build_sampler`.
        n_ins: see `build_sampler`.
        tfm: the transform or transforms.
        is_train: for training: an incomplete last batch is left out, unless it is the only one.
        dataset_wrapper: a class in place of `SeededWrapper`.

    Raises:
        AssertionError: there is not one batch.
    """
    source = data_source if data_source is not None else []
    wrapper: Any = dataset_wrapper or SeededWrapper
    loader: DataLoader = SeededLoader(
        wrapper(cfg, source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(
            sampler_type, cfg=cfg, data_source=source, batch_size=batch_size, n_domain=n_domain, n_ins=n_ins
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if len(loader) == 0:
        raise AssertionError(f"no batch can be made of {len(source)} images (batch size {batch_size})")
    return loader


class DataManager:
    """Builds the dataset that the config names, and a loader for each of its splits.

    Args:
        cfg: the run's config.
        custom_tfm_train: a transform in place of the config's for training.
        custom_tfm_test: the same for validation and test.
        dataset_wrapper: a class in place of `SeededWrapper`.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Transform | Sequence[Transform] | None = None,
        custom_tfm_test: Transform | Sequence[Transform] | None = None,
        dataset_wrapper: type[Dataset] | None = None,
    ) -> None:
        dataset = build_dataset(cfg)
        tfm_train = _transform(cfg, custom_tfm_train, is_train=True)
        tfm_test = _transform(cfg, custom_tfm_test, is_train=False)
        self._cfg = cfg
        self._wrapper = dataset_wrapper
        self.dataset = dataset
        self.train_loader_x = self._train_loader(cfg.DATALOADER.TRAIN_X, dataset.train_x, tfm_train)
        self.train_loader_u = self._unlabelled_loader(tfm_train)
        self.val_loader = self._test_loader(dataset.val, tfm_test) if dataset.val else None
        self.test_loader = self._test_loader(dataset.test, tfm_test)
        self._num_classes = dataset.num_classes
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self._lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self._num_classes

    @property
    def num_source_domains(self) -> int:
        """How many source domains the config names."""
        return self._num_source_domains

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class index -> name."""
        return self._lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Prints a table of what was loaded."""
        rows: list[list[Any]] = [["Dataset", cfg.DATASET.NAME]]
        if cfg.DATASET.SOURCE_DOMAINS:
            rows.append(["Source", cfg.DATASET.SOURCE_DOMAINS])
        if cfg.DATASET.TARGET_DOMAINS:
            rows.append(["Target", cfg.DATASET.TARGET_DOMAINS])
        rows.append(["# classes", f"{self.num_classes:,}"])
        for name in ("train_x", "train_u", "val", "test"):
            items = getattr(self.dataset, name)
            if items or name in ("train_x", "test"):
                rows.append([f"# {name}", f"{len(items or ()):,}"])
        print(tabulate(rows))

    def _train_loader(self, node: CfgNode, items: list[Datum] | None, tfm: Any) -> DataLoader:
        return build_data_loader(
            self._cfg,
            sampler_type=node.SAMPLER,
            data_source=items,
            batch_size=node.BATCH_SIZE,
            n_domain=node.N_DOMAIN,
            n_ins=node.N_INS,
            tfm=tfm,
            is_train=True,
            dataset_wrapper=self._wrapper,
        )

    def _unlabelled_loader(self, tfm: Any) -> DataLoader | None:
        if not self.dataset.train_u:
            return None
        loaders = self._cfg.DATALOADER
        node = loaders.TRAIN_X if loaders.TRAIN_U.SAME_AS_X else loaders.TRAIN_U
        return self._train_loader(node, self.dataset.train_u, tfm)

    def _test_loader(self, items: list[Datum] | None, tfm: Any) -> DataLoader:
        return build_data_loader(
            self._cfg,
            sampler_type=self._cfg.DATALOADER.TEST.SAMPLER,
            data_source=items,
            batch_size=self._cfg.DATALOADER.TEST.BATCH_SIZE,
            tfm=tfm,
            is_train=False,
            dataset_wrapper=self._wrapper,
        )


def _transform(cfg: CfgNode, custom: Any, is_train: bool) -> Any:
    if custom is None:
        return build_transform(cfg, is_train=is_train)
    print(f"* Using custom transform for {'training' if is_train else 'testing'}")
    return custom
