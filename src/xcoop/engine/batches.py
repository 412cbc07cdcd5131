"""From a list of images to the items that a loader collates."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from xcoop.engine.datum import Datum
from xcoop.engine.filetools import read_image
from xcoop.engine.rng import drawing, sample_seed
from xcoop.engine.transforms import INTERPOLATION_MODES

if TYPE_CHECKING:
    from PIL.Image import Image
    from yacs.config import CfgNode

Transform = Callable[[Any], Any]


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
        self.to_tensor = _plain_transform(cfg.INPUT)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output: dict[str, Any] = {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": idx,
        }
        image = read_image(item.impath)
        output |= self._views(image)
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _views(self, image: Image) -> dict[str, Any]:
        if self.transform is None:
            return {"img": image}
        if callable(self.transform):
            return {"img": self._apply(self.transform, image)}
        keys = ["img"] + [f"img{i}" for i in range(2, len(self.transform) + 1)]
        return {key: self._apply(transform, image) for key, transform in zip(keys, self.transform, strict=True)}

    def _apply(self, transform: Transform, image: Image) -> Any:
        views = [transform(image) for _ in range(self.k_tfm)]
        return views[0] if self.k_tfm == 1 else views


class Seeded(Dataset):
    """Mixed into a `DatasetWrapper`, ours or Dassl's: draws for an image depend on SEED, epoch and index alone.

    Args:
        cfg: the run's config; with a SEED below 0 the draws are other ones in each process.
        args: see `DatasetWrapper`.
        kwargs: see `DatasetWrapper`.
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


class SeededLoader(DataLoader):
    """Tells `Seeded` images that a pass begins; other images are left alone."""

    def __iter__(self) -> Any:
        if isinstance(self.dataset, Seeded):
            self.dataset.begin_pass()
        return super().__iter__()


def begin_epoch(loader: Any, epoch: int) -> None:
    """Tells the images of a loader which epoch begins, from 0, if they are `Seeded`."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Seeded):
        dataset.begin_epoch(epoch)


def _plain_transform(node: CfgNode) -> Transform:
    """Resize, tensor, normalisation: what `img0` is made with."""
    steps = [T.Resize(list(node.SIZE), INTERPOLATION_MODES[node.INTERPOLATION]), T.ToTensor()]
    if "normalize" in node.TRANSFORMS:
        steps.append(T.Normalize(list(node.PIXEL_MEAN), list(node.PIXEL_STD)))
    return T.Compose(steps)
