"""The base of all datasets: their splits, class names, and few-shot sampling."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from xcoop.engine.datum import Datum
from xcoop.engine.registry import Registry, check_availability

if TYPE_CHECKING:
    from yacs.config import CfgNode

DATASET_REGISTRY = Registry("DATASET")

Items = list[Datum]


def build_dataset(cfg: CfgNode) -> DatasetBase:
    """The dataset that `cfg.DATASET.NAME` names.

    Raises:
        ValueError: it is not registered.
    """
    name = cfg.DATASET.NAME
    check_availability(name, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading dataset: {name}")
    dataset: DatasetBase = DATASET_REGISTRY.get(name)(cfg)
    return dataset


class DatasetBase:
    """Labelled training images, validation and test images, perhaps unlabelled ones.

    Args:
        train_x: labelled training images; not empty.
        train_u: unlabelled training images.
        val: validation images.
        test: test images.
    """

    dataset_dir: str = ""  # its folder's name below DATASET.ROOT
    domains: Sequence[str] = []  # the domains that it has; none for most

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
        self._num_classes = self.get_num_classes(labelled)
        self._lab2cname, self._classnames = self.get_lab2cname(labelled)

    @property
    def train_x(self) -> Items | None:
        """Labelled training images."""
        return self._train_x

    @property
    def train_u(self) -> Items | None:
        """Unlabelled training images."""
        return self._train_u

    @property
    def val(self) -> Items | None:
        """Validation images."""
        return self._val

    @property
    def test(self) -> Items | None:
        """Test images."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class index -> name."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """The names in the order of the class indices."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """C, the greatest class index plus one."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Sequence[Datum]) -> int:
        """The greatest label plus one.

        Raises:
            ValueError: there is no image.
        """
        if not data_source:
            raise ValueError("a dataset without a single labelled image")
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """The class names by label, and as a list in that order."""
        names = {item.label: item.classname for item in data_source}
        labels = sorted(names)
        return {label: names[label] for label in labels}, [names[label] for label in labels]

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Checks the config's domains; see `is_input_domain_valid`."""
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Checks that this dataset has these domains.

        Raises:
            ValueError: one is unknown.
        """
        for domain in input_domains:
            check_availability(domain, self.domains)

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
        drawn = [self._draw(source, num_shots, repeat) for source in data_sources]
        return drawn[0] if len(drawn) == 1 else drawn

    def _draw(self, source: Items, shots: int, repeat: bool) -> Items:
        drawn: Items = []
        for items in self.split_dataset_by_label(source).values():
            if len(items) >= shots:
                drawn += random.sample(items, shots)
            else:
                drawn += random.choices(items, k=shots) if repeat else items
        return drawn

    def split_dataset_by_label(self, data_source: Items) -> defaultdict[int, Items]:
        """Label -> its images, labels in the order of their first image."""
        return _group(data_source, "label")

    def split_dataset_by_domain(self, data_source: Items) -> defaultdict[int, Items]:
        """Domain -> its images, domains in the order of their first image."""
        return _group(data_source, "domain")

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Downloads an archive to `dst` and unpacks it beside itself; see `xcoop.engine.archives`."""
        from xcoop.engine.archives import unpack
        from xcoop.engine.filetools import download_url

        download_url(url, dst, from_gdrive=from_gdrive)
        unpack(dst)


def _group(items: Items, attribute: str) -> defaultdict[int, Items]:
    groups: defaultdict[int, Any] = defaultdict(list)
    for item in items:
        groups[getattr(item, attribute)].append(item)
    return groups
