"""Where a dataset keeps its masks, and how a mask follows its image through the preprocessing.

| set | a concept's mask | the lesion's (or the organ's) mask |
|---|---|---|
| dermoscopy phantom | `masks/<stem>/<column>.png` | `masks/<stem>/lesion.png` |
| chest phantom | `../chest_xray_masks/<split>/<stem>/<column>.png` | `.../lungs.png` |
| PH2 | - | `<case>/<case>_lesion/<case>_lesion.bmp` |
| ISIC 2018, HAM10000 | - | `<any folder>/<stem>_segmentation.png`, of task 1 or of HAM10000's own archive |
| BUSI | - | `<stem>_mask.png`, `<stem>_mask_1.png`, ... beside the image |
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from xcoop.utils.images import open_image

Mask = NDArray[np.bool_]
CHEST_MASKS = "chest_xray_masks"


class MaskFiles(ABC):  # noqa: B024 - a dataset may have either kind of mask
    """Finds the masks of images by their paths relative to the dataset's folder; [] where there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of_concept(self, path: str, column: str) -> list[Path]:
        """The files that together show where a concept lies, by its column."""
        return []

    def of_lesion(self, path: str) -> list[Path]:
        """The files that together show the lesion, or in a chest the lungs."""
        return []


class DermPhantomMasks(MaskFiles):
    """Of a phantom in Derm7pt's layout."""

    def of_concept(self, path: str, column: str) -> list[Path]:
        """One file, if the concept is present."""
        return _there([self.folder / "masks" / Path(path).stem / f"{column}.png"])

    def of_lesion(self, path: str) -> list[Path]:
        """One file."""
        return self.of_concept(path, "lesion")


class ChestPhantomMasks(MaskFiles):
    """Of a phantom in the layout of the chest X-ray archive."""

    def of_concept(self, path: str, column: str) -> list[Path]:
        """One file, if the concept is present and visible."""
        place = self.folder.parent / CHEST_MASKS / Path(path).parts[0] / Path(path).stem
        return _there([place / f"{column}.png"])

    def of_lesion(self, path: str) -> list[Path]:
        """The lungs."""
        return self.of_concept(path, "lungs")


class PH2Masks(MaskFiles):
    """Of PH2: beside the folder of each image lies that of its lesion."""

    def of_lesion(self, path: str) -> list[Path]:
        """One file."""
        image = self.folder / path
        return _there([image.parent.parent / f"{image.stem}_lesion" / f"{image.stem}_lesion{image.suffix}"])


class ISICMasks(MaskFiles):
    """Of the images of ISIC 2018: those that task 1, or HAM10000's authors, have outlined."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        files = sorted(file for depth in ("", "*/", "*/*/") for file in folder.glob(f"{depth}*_segmentation.png"))
        self._files = {file.stem.removesuffix("_segmentation"): file for file in reversed(files)}

    def of_lesion(self, path: str) -> list[Path]:
        """One file."""
        file = self._files.get(Path(path).stem)
        return [file] if file else []


class BUSIMasks(MaskFiles):
    """Of BUSI: one file for each tumour, beside the image."""

    def of_lesion(self, path: str) -> list[Path]:
        """One or several files; in normal scans they are empty."""
        image = self.folder / path
        first = image.with_name(f"{image.stem}_mask.png")
        return _there([first, *(image.with_name(f"{image.stem}_mask_{n}.png") for n in range(1, 10))])


OF_SET: dict[str, type[MaskFiles]] = {"ph2": PH2Masks, "isic2018": ISICMasks, "busi": BUSIMasks}
"""By `about_name`."""


def mask_files(dataset: Any) -> MaskFiles:
    """What finds the masks of a dataset; one that finds nothing if it has none."""
    folder = Path(dataset.dataset_dir)
    if dataset.is_phantom and (folder / "masks").is_dir():
        return DermPhantomMasks(folder)
    if dataset.is_phantom and (folder.parent / CHEST_MASKS).is_dir():
        return ChestPhantomMasks(folder)
    return OF_SET.get(dataset.about_name, MaskFiles)(folder)


def read_masks(files: Iterable[Path]) -> Mask | None:
    """The union of some mask files, (H, W): what is lighter than mid-grey is inside. None if there are none.

    Raises:
        ValueError: the files have different sizes.
        ImageError: a file cannot be read.
    """
    masks = {file: np.asarray(open_image(file))[:, :, 0] > 127 for file in files}
    if len({mask.shape for mask in masks.values()}) > 1:
        raise ValueError(f"masks of one image differ in size: {', '.join(map(str, masks))}")
    return np.logical_or.reduce(list(masks.values())) if masks else None


def fit_mask(mask: Mask, size: int | Sequence[int]) -> Mask:
    """A mask in the geometry of the test transform: the smaller edge resized to `size`, then cropped at the centre.

    The same functions do it as in `engine.transforms`, with the nearest pixel in place of an interpolation.

    Args:
        mask: (H, W), of the size of the image on disk.
        size: INPUT.SIZE: a side, or height and width, in pixels.

    Returns:
        (height, width).
    """
    height, width = (size, size) if isinstance(size, int) else size
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    resized = F.resize(picture, max(height, width), InterpolationMode.NEAREST)
    fitted: Mask = np.asarray(F.center_crop(resized, [height, width])) > 127
    return fitted


def _there(files: list[Path]) -> list[Path]:
    return [file for file in files if file.is_file()]
