"""The facts of a dataset: every file of them is read strictly, and a mistake is named with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from xcoop.config.plugins import plugin_path
from xcoop.data.about import GROUPINGS, About, RemoteFile, about, missing, read_about

NAMES = sorted(path.stem for path in plugin_path("configs", "datasets", "about").glob("*.yaml"))
MD5 = "md5:" + "0123456789abcdef" * 2
LEAST: dict[str, Any] = {
    "title": "Toy set",
    "homepage": "https://toys.invalid",
    "licence": "CC0",
    "citation": "Nobody. Toys. 2020.",
    "layout": "<DATA>/toys/\n  *.png\n",
    "phantom": "",
    "counts": {"a-vs-b": {"train": {"a": 3, "b": 4}}},
}
FILE = {"url": "https://toys.invalid/x.zip", "name": "toys/x.zip", "size": 12, "checksum": MD5, "unpack": "toys"}


def read(tmp_path: Path, **changed: Any) -> About:
    path = tmp_path / "toys.yaml"
    tree = {key: value for key, value in (LEAST | changed).items() if value is not None}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return read_about(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_facts_is_whole(name: str) -> None:
    facts = about(name)
    assert facts.name == name
    assert all((facts.title, facts.homepage, facts.licence, facts.citation, facts.layout, facts.counts))
    assert facts.files or facts.request, "either it may be downloaded, or something is to be done by hand"
    assert facts.grouping in GROUPINGS[:-1]


def test_the_optional_keys_may_be_absent(tmp_path: Path) -> None:
    facts = read(tmp_path)
    assert (facts.files, facts.request, facts.grouping, facts.caution) == ((), "", "", "")
    assert facts.counts["a-vs-b"]["train"]["b"] == 4


def test_files_are_read(tmp_path: Path) -> None:
    drive = {"url": "gdrive:1A-b_c", "name": "y.npz"}
    facts = read(tmp_path, files=[FILE, drive], grouping="lesion", caution=" Few patients.\n", request="Ask.")
    assert facts.files == (
        RemoteFile("https://toys.invalid/x.zip", "toys/x.zip", 12, MD5, "toys"),
        RemoteFile("gdrive:1A-b_c", "y.npz"),
    )
    assert (facts.grouping, facts.caution, facts.request) == ("lesion", "Few patients.", "Ask.")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cautoin": "x"}, "Unknown key 'cautoin'. Did you mean 'caution'?"),
        ({"name": "toys"}, "Unknown key 'name'"),
        ({"licence": None, "license": "CC0"}, "Unknown key 'license'. Did you mean 'licence'?"),
        ({"licence": None, "layout": None}, "lacks licence, layout"),
        ({"title": 7}, "title must be a text, not 7"),
        ({"grouping": "pateint"}, "Did you mean 'patient'?"),
        ({"changes_labels": {"miror": "x"}}, "changes_labels: Unknown key 'miror'. Did you mean 'mirror'?"),
        ({"keeps_labels": {"mirror": True}}, "keeps_labels.mirror must be a text, not True"),
        ({"keeps_labels": ["mirror"]}, "keeps_labels must be a mapping"),
        ({"request": ["a"]}, r"request must be a text, not \['a'\]"),
        ({"files": FILE}, "files must be a list"),
        ({"files": ["x.zip"]}, r"files\[0\] must hold keys and values, not 'x\.zip'"),
        ({"files": [FILE, FILE | {"sise": 3}]}, r"files\[1\]: Unknown key 'sise'. Did you mean 'size'?"),
        ({"files": [{"url": "https://x"}]}, r"files\[0\] lacks name"),
        ({"files": [FILE | {"url": "file:///etc/passwd"}]}, r"url must be an http\(s\) address or gdrive"),
        ({"files": [FILE | {"url": "ftp://x/y"}]}, "url must be"),
        ({"files": [FILE | {"name": "../x.zip"}]}, r"name must be a path below the data root.*'\.\./x\.zip'"),
        ({"files": [FILE | {"name": "/x.zip"}]}, "name must be"),
        ({"files": [FILE | {"name": "."}]}, "name must be"),
        ({"files": [FILE | {"unpack": "a/../../b"}]}, "unpack must be"),
        ({"files": [FILE | {"unpack": "C:/b"}]}, "unpack must be"),
        ({"files": [FILE | {"size": "12"}]}, "size must be a number of bytes, not '12'"),
        ({"files": [FILE | {"size": True}]}, "size must be"),
        ({"files": [FILE | {"size": 0}]}, "size must be"),
        ({"files": [FILE | {"checksum": "md5:12"}]}, "checksum must be md5:<hex> or sha256:<hex>, not 'md5:12'"),
        ({"counts": {"t": {"train": {"a": "3"}}}}, r"counts\.t\.train\.a must be a number of images, not '3'"),
        ({"counts": {"t": {"trian": {"a": 3}}}}, "Unknown split 'trian'. Did you mean 'train'?"),
        ({"counts": {"t": {"train": {False: 3}}}}, r"counts\.t\.train must be a mapping from names"),
        ({"counts": 3}, "counts must be a mapping"),
    ],
)
def test_a_mistake_is_named_with_file_and_place(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, **changed)
    assert str(tmp_path / "toys.yaml") in str(caught.value)


def test_what_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "toys.yaml").write_text("title: [")
    with pytest.raises(ValueError, match=r"toys\.yaml is not valid YAML"):
        read_about(tmp_path / "toys.yaml")
    (tmp_path / "toys.yaml").write_text("- a list")
    with pytest.raises(ValueError, match=r"toys\.yaml must hold keys and values"):
        read_about(tmp_path / "toys.yaml")


def test_a_missing_dataset_says_how_it_is_fetched_or_asked_for(tmp_path: Path) -> None:
    facts = read(tmp_path)
    assert "xcoop data prepare" not in str(missing(facts, [tmp_path]))
    fetched = replace(facts, files=(RemoteFile("https://toys.invalid/x.zip", "x.zip"),))
    assert "xcoop data prepare toys" in str(missing(fetched, [tmp_path]))
    assert "By hand: Fill in the form." in str(missing(replace(facts, request="Fill in the form."), [tmp_path]))
