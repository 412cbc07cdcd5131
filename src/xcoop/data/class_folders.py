"""Sets that are handed out as a folder of pictures for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from xcoop.data.folders import list_images
from xcoop.data.items import DatasetError, Item


def read_class_folders(
    folder: Path,
    labels: Mapping[str, int],
    class_names: Sequence[str],
    keep: Callable[[str], bool] = lambda name: True,
) -> list[Item]:
    """The pictures of each class folder.

    Args:
        folder: that holds the class folders.
        labels: label of each class folder, by its name.
        class_names: in label order.
        keep: whether a file is a picture of the class, by its name; the others (masks) are left out.

    Raises:
        DatasetError: a class folder is missing, or holds no such picture.
    """
    return [
        Item(f"{name}/{file}", label, class_names[label])
        for name, label in labels.items()
        for file in _pictures(folder, name, labels, keep)
    ]


def _pictures(folder: Path, name: str, labels: Mapping[str, int], keep: Callable[[str], bool]) -> list[str]:
    if not (folder / name).is_dir():
        raise DatasetError(f"{folder / name} is missing: the set has the folders {', '.join(labels)}")
    files = [file for file in list_images(folder / name) if keep(file)]
    if not files:
        raise DatasetError(f"{folder / name} holds no images")
    return files
