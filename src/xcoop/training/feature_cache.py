"""Image features of a frozen tower, computed once and shared by all seeds, shots and trainers.

A file holds the features of one list of images. Its name is a hash of all that they depend on: the backbone's
weights, how files become pixels, the preprocessing, and each image's path, size and time of change. Nothing else is
asked, so a wrong hit would need an image that was changed within its own size and time stamp. A file carries its name
and the hash of its numbers: one that was damaged, renamed, or written before there were hashes is made anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.base import tensors_sha256
from xcoop.engine.data import worker_start
from xcoop.utils import process_cache
from xcoop.utils.files import atomic_path, cache_dir
from xcoop.utils.images import READER

logger = logging.getLogger(__name__)

FORMAT = 1  # of the files
MAX_BYTES = 4 << 30  # above this, features are computed batch by batch instead of kept
MAX_SHARED = 1 << 30  # bytes of features that a process holds for its runs; the rest is read from disk again


class FeatureLoader:
    """Batches of stored features, in the place of a loader that decodes images.

    Sampler, batch size and what happens to a short last batch are those of the loader it stands for.

    Args:
        features: of all images of `loader.dataset`, in its order.
        loader: the loader of the images.
    """

    def __init__(self, features: ImageFeatures, loader: DataLoader[Any]) -> None:
        items = loader.dataset.data_source  # type: ignore[attr-defined]
        self.features = features
        self.batch_sampler = loader.batch_sampler
        self.dataset = loader.dataset
        self.labels = torch.tensor([item.label for item in items])
        self.domains = torch.tensor([item.domain for item in items])
        self.paths = [item.impath for item in items]

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for indices in self.batch_sampler:  # type: ignore[union-attr]
            index = torch.as_tensor(list(indices))
            at = index.to(self.features.pooled.device, non_blocking=True)  # or a GPU would be waited for at each batch
            yield {
                "features": ImageFeatures(self.features.pooled[at], self.features.patches[at]),
                "label": self.labels[index],
                "domain": self.domains[index],
                "index": index,
                "impath": [self.paths[i] for i in indices],
            }


class FeatureStore:
    """Computes features of image lists, or finds them where an earlier run left them.

    Args:
        backbone: frozen.
        device: where the images are encoded.
        patches: whether local features are wanted.
        batch_size: of the encoding.
        settings: the node FEATURES: whether features are kept (CACHE), and where (DIR; "" is this user's cache folder).
    """

    def __init__(self, backbone: Backbone, device: torch.device, patches: bool, batch_size: int, settings: Any) -> None:
        self.backbone = backbone
        self.device = device
        self.patches = patches
        self.batch_size = batch_size
        self.keep = bool(settings.CACHE)
        self.folder = Path(settings.DIR).expanduser() if settings.DIR else cache_dir() / "features"

    def loader(self, loader: Any) -> Any:
        """A loader of features in the place of one of images, which stays if they are not kept, or take too much room.

        Args:
            loader: None stays None, and one of features itself.
        """
        if loader is None or not self.keep or isinstance(loader, FeatureLoader):
            return loader
        n = len(loader.dataset)
        rows = 1 + (self.backbone.grid[0] * self.backbone.grid[1] if self.patches else 0)
        needed = 4 * n * rows * self.backbone.embed_dim  # bytes
        if needed > MAX_BYTES:
            logger.warning("features of %d images would take %.1f GB: computed batch by batch", n, needed / 2**30)
            return loader
        return self.kept(loader)

    def kept(self, loader: Any) -> FeatureLoader:
        """A loader of features, however much memory they take."""
        return loader if isinstance(loader, FeatureLoader) else FeatureLoader(self.features(loader), loader)

    def features(self, loader: DataLoader[Any]) -> ImageFeatures:
        """Features of all images of `loader.dataset`, in its order, on the store's device."""
        path = self.path(loader)

        def make() -> ImageFeatures:
            found = self._read(path, len(loader.dataset)) if self.keep else None  # type: ignore[arg-type]
            if found is None:
                found = self._compute(loader)
                if self.keep:
                    self._write(path, found)
            return ImageFeatures(found.pooled.to(self.device), found.patches.to(self.device))

        return shared_features((path, self.device), make) if self.keep else make()

    def path(self, loader: DataLoader[Any]) -> Path:
        """The file of these images' features."""
        dataset: Any = loader.dataset
        tower = f"{FORMAT} {READER} {self.backbone.fingerprint()} {self.device.type} patches={self.patches}"
        digest = hashlib.sha256(f"{tower}\n{dataset.transform!r}\n".encode())
        for item in dataset.data_source:
            status = os.stat(item.impath)
            digest.update(f"{Path(item.impath).absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
        return self.folder / f"{digest.hexdigest()[:40]}.safetensors"

    @torch.no_grad()
    def _compute(self, loader: DataLoader[Any]) -> ImageFeatures:
        """Encodes all images once. The random generators are left as they were, as if the features had been there."""
        n, on_gpu = len(loader.dataset), self.device.type == "cuda"  # type: ignore[arg-type]
        workers = loader.num_workers
        ordered: DataLoader[Any] = DataLoader(
            loader.dataset,
            self.batch_size,
            shuffle=False,
            num_workers=workers,
            multiprocessing_context=worker_start(workers),
            pin_memory=on_gpu,
        )
        all_pooled = all_patches = torch.empty(0)
        done = 0
        with torch.random.fork_rng(devices=[]):
            for batch in tqdm(ordered, desc="image features", disable=None):
                images = batch["img"].to(self.device, non_blocking=True)
                part = self.backbone.encode_image(images, patches=self.patches)
                if not done:
                    place = self._place(n * (part.pooled[0].numel() + part.patches[0].numel()))
                    all_pooled, all_patches = (
                        torch.empty(n, *some.shape[1:], device=place) for some in (part.pooled, part.patches)
                    )
                rows = slice(done, done + len(images))
                all_pooled[rows], all_patches[rows] = part.pooled, part.patches
                done += len(images)
        return ImageFeatures(all_pooled, all_patches)

    def _place(self, numbers: int) -> torch.device:
        """Where so many numbers of 32 bits are gathered: a GPU does not wait if it is there, and half of it is free."""
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 0
        return self.device if 4 * numbers < free / 2 else torch.device("cpu")

    def _read(self, path: Path, n: int) -> ImageFeatures | None:
        """What a file holds for n images; None, and the file is removed, if it is not what was written for them."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                # Copies: what the file maps into memory would vanish with it.
                tensors = {name: file.get_tensor(name).clone() for name in ("pooled", "patches")}
                if file.metadata() != {"name": path.name, "sha256": tensors_sha256(tensors)}:
                    raise ValueError("its name or its numbers are not those that were written")
            features = ImageFeatures(**tensors)
            if features.pooled.shape != (n, self.backbone.embed_dim) or len(features.patches) != n:
                raise ValueError(f"features of shape {tuple(features.pooled.shape)} for {n} images")
            return features
        except (SafetensorError, OSError, ValueError) as error:
            logger.warning("%s cannot be used (%s): it is removed, and its features are computed anew", path, error)
            with suppress(OSError):
                path.unlink()
            return None

    def _write(self, path: Path, features: ImageFeatures) -> None:
        tensors = {"pooled": features.pooled.cpu(), "patches": features.patches.cpu()}
        try:
            with atomic_path(path) as temporary:
                save_file(tensors, temporary, {"name": path.name, "sha256": tensors_sha256(tensors)})
        except (OSError, SafetensorError) as error:  # a full or read-only disk costs time, not the run
            logger.warning("features are not kept for the next run: %s", error)


def shared_features(key: Hashable, make: Callable[[], ImageFeatures]) -> ImageFeatures:
    """Image features by the key of what they depend on; among runs that share, they are made (or read) once."""
    shared = process_cache.current()
    if shared is None:
        return make()
    held = shared.features
    if key not in held:
        held[key] = make()
    held.move_to_end(key)
    while len(held) > 1 and sum(images.pooled.nbytes + images.patches.nbytes for images in held.values()) > MAX_SHARED:
        held.popitem(last=False)
    found: ImageFeatures = held[key]
    return found
