"""PneumoniaMNIST of MedMNIST v2: small grey chest X-rays in one npz file, exported once as PNG."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import make_once
from xcoop.data.items import SPLITS, DatasetError, Item, Splits
from xcoop.files import cache_dir, sha256_file
from xcoop.plugins import register_dataset

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

# The larger the pictures, the more a backbone sees of them: the largest file at hand is read.
NAMES = ("pneumoniamnist_224.npz", "pneumoniamnist_128.npz", "pneumoniamnist_64.npz", "pneumoniamnist.npz")
MAX_BYTES = 8 << 30  # of the unpacked arrays: a small file may promise any size


@register_dataset()
class PneumoniaMNIST(MedicalDataset):
    """The official splits. The images are exported below the cache; patients are not told."""

    dataset_dir = "pneumoniamnist"
    about_name = "pneumoniamnist"
    concept_bank = "pneumoniamnist"
    tasks = {"normal-vs-pneumonia": ("normal", "pneumonia")}  # noqa: RUF012 - the engine's base class is untyped

    def find(self, cfg: CfgNode) -> Path:
        """The folder of the exported images; made from the npz file if it is not there."""
        places = self.places(cfg, "", "pneumoniamnist")
        files = places if cfg.DATASET.PATH else [place / name for name in NAMES for place in places]
        if cfg.DATASET.PATH and places[0].is_dir():
            files = [places[0] / name for name in NAMES]
        source = next((path for path in files if path.is_file()), None)
        if source is None:
            raise self.missing(files)
        logger.info("reading %s", source)
        folder = cache_dir() / "pneumoniamnist" / f"{source.stem}-{sha256_file(source)[:16]}"
        return make_once(folder, lambda out: export(source, out))

    def read(self, folder: Path) -> Splits:
        """The exported images; their names tell the class."""
        items = {split: [self._item(folder, path) for path in (folder / split).glob("*.png")] for split in SPLITS}
        return Splits.of(items["train"], items["val"], items["test"])

    def _item(self, folder: Path, path: Path) -> Item:
        label = int(path.stem.rpartition("_")[2])
        return Item(path.relative_to(folder).as_posix(), label, self.class_names[label])


def export(source: Path, out: Path) -> None:
    """Writes each image as `<split>/<index>_<label>.png`."""
    arrays = load(source)
    for split in SPLITS:
        (out / split).mkdir()
        pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel(), strict=True)
        bar = tqdm(pairs, total=len(arrays[f"{split}_images"]), desc=f"exporting {split}", disable=None, leave=False)
        for index, (image, label) in enumerate(bar):
            Image.fromarray(image).save(out / split / f"{index:05d}_{label}.png")


def load(source: Path) -> dict[str, np.ndarray]:
    """The six arrays of the file: per split images (N, H, W) uint8 and labels (N, 1), 0 normal, 1 pneumonia.

    Raises:
        DatasetError: the file is damaged, or an array is missing or of another shape, type or range.
    """
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    try:
        with zipfile.ZipFile(source) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise DatasetError(f"{source} unpacks to {size:,} bytes, more than the {MAX_BYTES:,} allowed")
        with np.load(source, allow_pickle=False) as file:
            if lacking := [name for name in names if name not in file]:
                raise DatasetError(f"{source} lacks the arrays {lacking}; it has {list(file)}")
            arrays = {name: file[name] for name in names}
    except DatasetError:
        raise
    except Exception as error:  # a damaged archive fails in many ways, inside zipfile, zlib and numpy
        raise DatasetError(f"{source} cannot be read as npz ({type(error).__name__}: {error})") from error
    for split in SPLITS:
        _check(source, split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
    return arrays


def _check(source: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DatasetError(f"{source}: {split}_images is {images.dtype}{images.shape}, not grey uint8 (N, H, W)")
    if labels.size != len(images):
        raise DatasetError(f"{source}: {split} has {len(images)} images, but {labels.size} labels")
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, (0, 1)).all():
        raise DatasetError(f"{source}: {split}_labels holds {np.unique(labels)[:10]}, not 0 and 1")
