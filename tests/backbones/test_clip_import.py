"""`clip` is found in each of its forms, with each state of setuptools, and only if it is OpenAI's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from xcoop.backbones import clip_import
from xcoop.backbones.clip_import import import_clip


@pytest.fixture
def not_yet_imported(monkeypatch):
    """As if clip had never been imported; what was imported is put back afterwards."""
    for name in [name for name in sys.modules if name == "clip" or name.startswith(("clip.", "pkg_resources"))]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name == "clip" or name.startswith("clip.")]:
        del sys.modules[name]


@pytest.mark.usefixtures("not_yet_imported")
@pytest.mark.parametrize("state", ["absent", "without packaging", "with packaging"])
def test_any_setuptools(state, monkeypatch):
    there = None  # None in sys.modules: importing it fails
    if state != "absent":
        there = ModuleType("pkg_resources")
    if state == "with packaging":
        there.packaging = __import__("packaging.version")
    monkeypatch.setitem(sys.modules, "pkg_resources", there)
    clip = import_clip()
    assert clip.tokenize("a nevus").shape == (1, 77)
    assert sys.modules["pkg_resources"] is there
    assert hasattr(there, "packaging") == (state == "with packaging")


@pytest.mark.usefixtures("not_yet_imported")
def test_nothing_is_left_behind(monkeypatch):
    with clip_import._pkg_resources_stand_in():
        assert "pkg_resources" in sys.modules
    assert "pkg_resources" not in sys.modules


@pytest.mark.usefixtures("not_yet_imported")
def test_another_package_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "clip.py").write_text("def copy(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"clip\.py is not OpenAI's.*pip install clip-anytorch"):
        import_clip()


@pytest.mark.usefixtures("not_yet_imported")
def test_none_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(ImportError, match="pip install clip-anytorch"):
        import_clip()


# What OpenAI's own package and CoOp's copy do otherwise than clip-anytorch.
DIFFERENCES = {
    "model.py": [
        ("attn_mask = self.attn_mask[..., -n_ctx:, -n_ctx:].to(", "attn_mask = self.attn_mask = self.attn_mask.to("),
        ("self.positional_embedding[:n_ctx].type", "self.positional_embedding.type"),
        ("self.relu1(", "self.relu3("),
    ],
    "clip.py": [
        ("from pkg_resources import packaging\n", ""),
        ('packaging.version.parse(torch.__version__) < packaging.version.parse("1.7.1")', "False"),
        ("dtype=torch.long", "dtype=torch.int"),
    ],
}
PROGRAM = """
import sys, torch
from xcoop.backbones import load_backbone
from yacs.config import CfgNode
from safetensors.torch import save_file
path, out = sys.argv[1:]
backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": "ViT-B/16", "PATH": path}}}))
import clip
assert clip.__file__.startswith(sys.path[0]), clip.__file__
texts = ["a nevus", "a melanoma with streaks"]
tokens = clip.tokenize(texts)
assert tokens.dtype == torch.int32
torch.testing.assert_close(backbone.encode_text(texts), backbone.model.encode_text(tokens), atol=1e-5, rtol=0)
assert all(block.attn_mask.shape == (77, 77) for block in backbone.model.transformer.resblocks)
save_file({"tokens": backbone.tokenize(texts), "text": backbone.encode_text(texts)}, out)
"""


def test_a_copy_in_a_checkout_hides_the_installed_one(tmp_path, tiny_weights_file, tiny_backbone):
    shutil.copytree(Path(import_clip().__file__).parent, tmp_path / "clip")
    for name, changes in DIFFERENCES.items():
        text = (tmp_path / "clip" / name).read_text()
        for old, new in changes:
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
