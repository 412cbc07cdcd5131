"""OpenAI's `clip` is the installed one, whatever else answers to that name; its weights are fetched once, and whole."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from xcoop.backbones import clip_model
from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.openai import NAMES
from xcoop.utils.download import Job

STATES = ["absent", "without packaging", "with packaging"]


def _names() -> list[str]:
    return [name for name in sys.modules if f"{name}.".startswith(("clip.", f"{clip_model.NAME}."))]


@pytest.fixture
def not_yet_imported(monkeypatch):
    """As if clip had never been imported; what was imported is put back afterwards."""
    for name in [*_names(), *(name for name in sys.modules if name.startswith("pkg_resources"))]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in _names():
        del sys.modules[name]


@pytest.fixture
def pkg_resources(request, monkeypatch):
    """What `import pkg_resources` finds in each state of setuptools."""
    there = None  # None in sys.modules: importing it fails
    if request.param != "absent":
        there = ModuleType("pkg_resources")
    if request.param == "with packaging":
        there.packaging = __import__("packaging.version")
    monkeypatch.setitem(sys.modules, "pkg_resources", there)
    yield there
    assert sys.modules["pkg_resources"] is there
    assert hasattr(there, "packaging") == (request.param == "with packaging")


@pytest.mark.usefixtures("not_yet_imported", "pkg_resources")
@pytest.mark.parametrize("pkg_resources", STATES, indirect=True)
def test_the_installed_one_and_a_copy_in_a_checkout_are_imported_with_any_setuptools(tmp_path, monkeypatch):
    assert import_clip().tokenize("a nevus").shape == (1, 77)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/__init__.py").write_text("from .clip import *\n")
    (tmp_path / "clip/clip.py").write_text(
        "from pkg_resources import packaging\nVERSION = packaging.version.parse('1')\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # pytest's own way asks pkg_resources
    assert str(importlib.import_module("clip").VERSION) == "1"


@pytest.mark.usefixtures("not_yet_imported")
def test_none_at_all(monkeypatch):
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(clip_model, "distribution", absent)
    with pytest.raises(ImportError, match="pip install clip-anytorch"):
        import_clip()


@pytest.mark.usefixtures("not_yet_imported")
def test_a_broken_one_is_tried_again(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("raise OSError('no such disk')\n")
    whole = clip_model._installed()
    monkeypatch.setattr(clip_model, "_installed", lambda: tmp_path)
    with pytest.raises(OSError, match="no such disk"):
        import_clip()
    monkeypatch.setattr(clip_model, "_installed", lambda: whole)
    assert import_clip().tokenize("a nevus").shape == (1, 77)


# What forks do otherwise than OpenAI: arguments of build_model, other numbers, no table of weights.
CHANGES = {
    "model.py": [("def build_model(state_dict: dict):", "def build_model(state_dict: dict, design_details):")],
    "clip.py": [("dtype=torch.long", "dtype=torch.int"), ("_MODELS", "_WEIGHTS")],
}
PROGRAM = """
import sys, torch
import xcoop
import clip  # as a fork's own trainer does
from safetensors.torch import save_file
from yacs.config import CfgNode
from xcoop.backbones import load_backbone
path, out = sys.argv[1:]
backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "ViT-B/16", "PATH": path}}}))
assert clip.__file__.startswith(sys.path[0]), clip.__file__
assert sys.modules["clip"] is clip and not isinstance(backbone.model, clip.model.CLIP)
assert clip.tokenize("a nevus").dtype == torch.int32
texts = ["a nevus", "a melanoma with streaks"]
save_file({"tokens": backbone.tokenize(texts), "text": backbone.encode_text(texts)}, out)
"""


def test_a_changed_copy_in_a_checkout_lives_beside_the_installed_one(tmp_path, tiny_weights_file, tiny_backbone):
    shutil.copytree(Path(import_clip().__file__).parent, tmp_path / "clip")
    for name, changes in CHANGES.items():
        text = (tmp_path / "clip" / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "clip" / name).write_text(text)
    (tmp_path / "program.py").write_text(PROGRAM)
    subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tiny_weights_file), str(tmp_path / "out")],
        check=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    found = load_file(tmp_path / "out")
    texts = ["a nevus", "a melanoma with streaks"]
    assert found["tokens"].equal(tiny_backbone.tokenize(texts))
    assert (found["text"] - tiny_backbone.encode_text(texts)).abs().max() < 1e-6


# Weights: how files come over the network is tested where it is done.

CONTENT = b"weights" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
URL = f"https://models.invalid/{SHA}/ViT-B-16.pt"


@pytest.mark.parametrize("there", [None, CONTENT, CONTENT[:-1]], ids=["absent", "whole", "damaged"])
def test_weights_are_downloaded_unless_they_are_there_whole(there, tmp_path, monkeypatch, caplog):
    target, jobs = tmp_path / ".cache" / "clip" / "ViT-B-16.pt", []  # the folder is OpenAI's own
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(import_clip().clip._MODELS, "ViT-B/16", URL)
    monkeypatch.setattr(clip_model, "download", jobs.append)
    if there is not None:
        target.parent.mkdir(parents=True)
        target.write_bytes(there)
    assert clip_model.fetch_openai("ViT-B/16") == target
    if there == CONTENT:
        assert jobs == []
        return
    (job,) = jobs
    assert job == Job(URL, target, checksum=f"sha256:{SHA}", advice=job.advice)
    assert all(part in job.advice for part in (URL, str(target), "MODEL.BACKBONE.PATH", "`phantom`"))
    assert (f"{target} is damaged" in caplog.text) == (there is not None)


def test_addresses_come_from_clip(monkeypatch):
    urls = import_clip().clip._MODELS
    assert set(NAMES) == set(urls)
    assert all(len(url.split("/")[-2]) == 64 and url.startswith("https://") for url in urls.values())
    monkeypatch.delitem(urls, "ViT-L/14")  # as in CoOp's copy
    with pytest.raises(ValueError, match=r"no address for the weights of ViT-L/14; it knows RN50.*BACKBONE\.PATH"):
        clip_model.fetch_openai("ViT-L/14")
