"""One image of a dataset."""

from __future__ import annotations

from xcoop.engine.filetools import check_isfile


class Datum:
    """An image file with its label.

    Args:
        impath: the image file; it must exist.
        label: class index, from 0.
        domain: domain index, from 0.
        classname: the class's name.

    Raises:
        AssertionError: `impath` is no string or no file.
    """

    # CoOp pickles these into its few-shot files: under Dassl's own path both engines read each other's.
    __module__ = "dassl.data.datasets.base_dataset"

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise AssertionError(f"an image path must be a string, not {impath!r}")
        if not check_isfile(impath):
            raise AssertionError(f"no image file at {impath!r}")
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        """The image file."""
        return self._impath

    @property
    def label(self) -> int:
        """The class index."""
        return self._label

    @property
    def domain(self) -> int:
        """The domain index."""
        return self._domain

    @property
    def classname(self) -> str:
        """The class's name."""
        return self._classname

    def __repr__(self) -> str:
        return f"Datum({self._impath!r}, label={self._label}, domain={self._domain}, classname={self._classname!r})"
