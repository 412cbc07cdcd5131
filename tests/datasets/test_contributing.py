"""CONTRIBUTING.md: its dataset and its concept bank are written down as they stand there, and used."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tree_tools
import yaml

import xcoop.datasets
from xcoop.concepts import load_bank
from xcoop.config import plugins
from xcoop.data.about import MissingDatasetError
from xcoop.utils.console import DatasetError

TEXT = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
BLOCK = re.compile(r"```\w+\n# (\S+/my_set\.\w+|\S+/trees_my_set\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the text, below a folder, and its class among the plug-ins."""
    for name, body in BLOCK.findall(TEXT.read_text(encoding="utf-8")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body, encoding="utf-8")
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plugins, "_datasets", dict(plugins._datasets))
    monkeypatch.setattr(xcoop.datasets, "__path__", [*xcoop.datasets.__path__, str(tmp_path / "datasets")])
    monkeypatch.syspath_prepend(str(tmp_path / "tests" / "datasets"))
    yield tmp_path
    for name in ("xcoop.datasets.my_set", "trees_my_set"):
        sys.modules.pop(name, None)


def loaded(written: Path, root: Path) -> Any:
    importlib.import_module("xcoop.datasets.my_set")
    cfg = tree_tools.config("folder", root)
    cfg.merge_from_file(str(written / "configs" / "datasets" / "my_set.yaml"))
    return plugins._datasets[cfg.DATASET.NAME](cfg)


def test_the_dataset_of_the_text_loads_its_tree_and_names_its_damage(written: Path, tmp_path: Path) -> None:
    trees = importlib.import_module("trees_my_set")
    layout = trees.LAYOUTS["my_set"]
    layout.make(tmp_path / "data")
    dataset = loaded(written, tmp_path / "data")
    found = tuple(
        {name: sum(item.classname == name for item in items) for name in dataset.classnames}
        for items in (dataset.train_x, dataset.val, dataset.test)
    )
    assert found == layout.counts
    ((damage, message),) = trees.DAMAGES["my_set"]
    damage(layout.make(tmp_path / "damaged"))
    with pytest.raises(DatasetError, match=message):
        loaded(written, tmp_path / "damaged")
    with pytest.raises(MissingDatasetError, match="MySet was not found"):
        loaded(written, tmp_path / "nowhere")


def test_the_bank_of_the_text_fits_the_dataset_of_the_text(written: Path) -> None:
    cls = importlib.import_module("xcoop.datasets.my_set").MySet
    bank = load_bank(written / "concept_banks" / f"{cls.concept_bank}.yaml")
    for names in cls.tasks.values():
        assert list(bank.for_classes(names).classes) == list(names)
    assert (
        yaml.safe_load((written / "configs" / "datasets" / "my_set.yaml").read_text())["DATASET"]["NAME"]
        == cls.__name__
    )
