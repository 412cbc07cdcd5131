"""The 2-D sets of MedMNIST v2 with one label an image: an npz file each, of 28 to 224 pixels, exported once as PNG."""

from __future__ import annotations

import hashlib
import logging
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import FamilyDataset
from xcoop.data.folders import list_images, make_once
from xcoop.data.splits import SPLITS, Item, Splits
from xcoop.utils.console import DatasetError
from xcoop.utils.files import cache_dir

logger = logging.getLogger(__name__)

SIZES = (224, 128, 64, 28)  # the larger the pictures, the more a backbone sees of them
MAX_BYTES = 32 << 30  # of an unpacked array: a small file may promise any size (PathMNIST of 224 pixels has 13.5e9)


@register_dataset()
class MedMNIST(FamilyDataset):
    """The official splits. The images are exported below the cache; patients are not told.

    `DATASET.SIZE`: the pixels of the file that is read; 0 (default) takes the largest at hand.
    """

    def find(self, cfg: CfgNode) -> Path:
        """The folder of the exported images; made from the npz file if it is not there."""
        files = self._files(cfg)
        source = next((path for path in files if path.is_file()), None)
        if source is None:
            raise self.missing(files)
        logger.info("reading %s", source)
        folder = cache_dir() / self.about_name / f"{source.stem}-{fingerprint(source)}"
        return make_once(folder, lambda out: export(source, out, len(self.class_names)))

    def _files(self, cfg: CfgNode) -> list[Path]:
        """Where the file may lie, the largest size first; the last place is that of the package `medmnist`."""
        sizes = SIZES if cfg.DATASET.SIZE == 0 else (int(cfg.DATASET.SIZE),)
        if not set(sizes) <= set(SIZES):
            raise ValueError(f"DATASET.SIZE is {sizes[0]}; {self.name} comes with {', '.join(map(str, SIZES))} pixels")
        places = self.places(cfg, "", self.about_name, "medmnist")
        if cfg.DATASET.PATH and not places[0].is_dir():
            return places
        if not cfg.DATASET.PATH:
            places.append(Path("~/.medmnist").expanduser())
        return [place / file_name(self.about_name, size) for size in sizes for place in places]

    def read(self, folder: Path) -> Splits:
        """The exported images; their names tell the class."""
        items: dict[str, list[Item]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            for name in list_images(folder / split):
                label = int(name.rpartition("_")[2].removesuffix(".png"))
                items[split].append(Item(f"{split}/{name}", label, self.class_names[label]))
        return Splits.of(items["train"], items["val"], items["test"])


def file_name(name: str, size: int) -> str:
    """The official name of a set's file, e.g. `pathmnist.npz` (28 pixels), `pathmnist_64.npz`."""
    return f"{name}.npz" if size == 28 else f"{name}_{size}.npz"


def fingerprint(source: Path) -> str:
    """16 hex digits that change with the content: a hash of the checksums that the archive keeps of its arrays."""
    with _opened(source) as archive:
        rows = sorted((member.filename, member.file_size, member.CRC) for member in archive.infolist())
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def export(source: Path, out: Path, classes: int) -> int:
    """Writes each image as `<split>/<index>_<label>.png`; of the images, one at a time is in memory.

    Returns:
        How many files were written.

    Raises:
        DatasetError: the file is damaged, or an array is missing or of another shape, type or range; or a label is
            none of 0 .. classes - 1.
    """
    with _opened(source) as archive:
        _require_arrays(source, archive)
        labels = {split: _labels(source, archive, split, classes) for split in SPLITS}
        for split in SPLITS:
            (out / split).mkdir()
            images = _images(source, archive, split, len(labels[split]))
            bar = tqdm(images, total=len(labels[split]), desc=f"exporting {split}", disable=None, leave=False)
            for index, (image, label) in enumerate(zip(bar, labels[split], strict=True)):
                Image.fromarray(image).save(out / split / f"{index:06d}_{label}.png")
        return sum(map(len, labels.values()))


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever zipfile, zlib or numpy throw on a damaged one becomes one DatasetError."""
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (DatasetError, OSError):
        raise
    except Exception as error:
        raise DatasetError(f"{source} cannot be read as npz ({type(error).__name__}: {error})") from error


def _require_arrays(source: Path, archive: zipfile.ZipFile) -> None:
    found = {name.removesuffix(".npy") for name in archive.namelist()}
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    if lacking := [name for name in names if name not in found]:
        raise DatasetError(f"{source} lacks the arrays {lacking}; it has {sorted(found)}")
    for name in names:
        size = archive.getinfo(f"{name}.npy").file_size
        if size > MAX_BYTES:
            raise DatasetError(f"{source}: {name} unpacks to {size:,} bytes, more than the {MAX_BYTES:,} allowed")


def _labels(source: Path, archive: zipfile.ZipFile, split: str, classes: int) -> list[int]:
    with archive.open(f"{split}_labels.npy") as file:
        labels = np.lib.format.read_array(file, allow_pickle=False)
    if labels.ndim > 1 and labels.shape[1:] != (1,):
        raise DatasetError(f"{source}: {split}_labels is {labels.shape}: sets of several labels an image are not read")
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, range(classes)).all():
        raise DatasetError(f"{source}: {split}_labels holds {np.unique(labels)[:20]}, not 0 to {classes - 1}")
    return [int(label) for label in labels.ravel()]


def _images(source: Path, archive: zipfile.ZipFile, split: str, count: int) -> Iterator[np.ndarray]:
    """The images (S, S) or (S, S, 3) of a split, as they are unpacked."""
    name = f"{split}_images.npy"
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = headers[version](file)
        side = shape[1] if len(shape) > 1 else 0
        square = shape[1:] in ((side, side), (side, side, 3)) and SIZES[-1] <= side <= SIZES[0]
        if dtype != np.uint8 or not square:
            raise DatasetError(
                f"{source}: {split}_images is {dtype}{shape}, not uint8 (N, S, S) or (N, S, S, 3) of {SIZES[-1]} to "
                f"{SIZES[0]} pixels"
            )
        if shape[0] != count:
            raise DatasetError(f"{source}: {split} has {shape[0]} images, but {count} labels")
        if fortran:  # it cannot be read image by image
            with archive.open(name) as whole:
                yield from np.lib.format.read_array(whole, allow_pickle=False)
            return
        for _ in range(count):
            yield np.frombuffer(file.read(math.prod(shape[1:])), np.uint8).reshape(shape[1:])
        if file.read(1):  # reaching the end also has zipfile compare the checksum
            raise DatasetError(f"{source}: {name} is longer than its header says")
