"""The patches, on small imitations of Dassl; and with XCOOP_REAL_DASSL=<checkout>, on the real one."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xcoop.engine import imports, patches
from xcoop.engine.checkpoint import CheckpointError
from xcoop.engine.imports import DasslFinder, Facade

REAL = os.environ.get("XCOOP_REAL_DASSL", "")

# A Dassl in miniature, written for these tests: the same names, each with the flaw of the real one.
TREE = {
    "__init__.py": "__version__ = 'fake'",
    "optim/__init__.py": "",
    "optim/lr_scheduler.py": """
        from torch.optim.lr_scheduler import LRScheduler

        class _BaseWarmupScheduler(LRScheduler):
            def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
                self.successor, self.warmup_epoch = successor, warmup_epoch
                super().__init__(optimizer, last_epoch, verbose, "one argument too many")

            def step(self, epoch=None):
                if self.last_epoch >= self.warmup_epoch:
                    self.successor.step(epoch)
                    self._last_lr = self.successor.get_last_lr()
                else:
                    super().step(epoch)

        class ConstantWarmupScheduler(_BaseWarmupScheduler):
            def __init__(self, optimizer, successor, warmup_epoch, cons_lr, last_epoch=-1, verbose=False):
                self.cons_lr = cons_lr
                super().__init__(optimizer, successor, warmup_epoch, last_epoch, verbose)

            def get_lr(self):
                if self.last_epoch >= self.warmup_epoch:
                    return self.successor.get_last_lr()
                return [self.cons_lr for _ in self.base_lrs]
    """,
    "utils/__init__.py": """
        from .logger import Logger
        from .tools import read_image
        from .torchtools import load_checkpoint
    """,
    "utils/torchtools.py": """
        def load_checkpoint(fpath):
            raise AssertionError("the unsafe way")
    """,
    "utils/tools.py": """
        from PIL import Image

        def read_image(path):
            return Image.open(path).convert("RGB")
    """,
    "utils/logger.py": """
        import sys

        class Logger:
            def __init__(self, fpath=None):
                self.console, self.file = sys.stdout, None

            def write(self, msg):
                self.console.write(msg)

            def flush(self):
                self.console.flush()

            def close(self):
                self.console.close()
    """,
    "metrics/__init__.py": "from .accuracy import compute_accuracy",
    "metrics/accuracy.py": """
        def compute_accuracy(output, target, topk=(1,)):
            raise RuntimeError("view size is not compatible")
    """,
    "evaluation/__init__.py": "",
    "evaluation/evaluator.py": """
        import numpy as np
        import torch

        def save(path):
            torch.save(np.eye(2), path)
    """,
    "data/__init__.py": "",
    "data/transforms/__init__.py": "",
    "data/transforms/randaugment.py": """
        import numpy as np

        def whole(values):
            return np.array(values).astype(np.int)
    """,
    "data/datasets/__init__.py": "",
    "data/datasets/dg/__init__.py": "",
    "data/datasets/dg/wilds/__init__.py": "from .wilds_base import get",
    "data/datasets/dg/wilds/wilds_base.py": """
        import logging
        logging.disable(logging.WARNING)
        from wilds import get_dataset as get
    """,
}


def plant(root: Path) -> Path:
    for name, text in TREE.items():
        path = root / "dassl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root


@pytest.fixture
def no_dassl() -> Iterator[None]:
    """As if no module of any Dassl had been imported yet; afterwards all is as it was."""
    saved = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "dassl"}
    paths, level = list(sys.path), logging.root.manager.disable

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "dassl"]:
            del sys.modules[name]
        importlib.invalidate_caches()

    forget()
    yield
    forget()
    sys.modules.update(saved)
    sys.path[:] = paths
    logging.disable(level)


@pytest.fixture(params=["before", "after"])
def fake(request: Any, no_dassl: None, tmp_path: Path, monkeypatch: Any) -> Any:
    """Imports modules of the miniature: `before` or `after` the finder was installed."""
    sys.path.insert(0, str(plant(tmp_path / "tree")))
    if request.param == "after":
        return importlib.import_module

    def import_unpatched_then_install(name: str) -> ModuleType:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, DasslFinder)])
            module = importlib.import_module(name)
        imports.install()
        return module

    return import_unpatched_then_install


def warm(module: Any, model: nn.Module, epochs: int = 0) -> tuple[Any, Any]:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.002)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 6.0)
    schedule = module.ConstantWarmupScheduler(optimiser, successor, 1, 1e-5)
    for _ in range(epochs):
        optimiser.step()
        schedule.step()
    return optimiser, schedule


class TestPatches:
    def test_warm_up_is_built_and_resumed_from_plain_numbers(self, fake: Any, tmp_path: Path) -> None:
        module = fake("dassl.optim.lr_scheduler")
        optimiser, schedule = warm(module, nn.Linear(1, 1), epochs=3)
        torch.save({"o": optimiser.state_dict(), "s": schedule.state_dict()}, tmp_path / "s.pth")
        state = torch.load(tmp_path / "s.pth", weights_only=True)  # nothing but numbers
        fresh, resumed = warm(module, nn.Linear(1, 1))
        fresh.load_state_dict(state["o"])
        resumed.load_state_dict(state["s"])
        for _ in range(3):
            assert fresh.param_groups[0]["lr"] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
            for thing in (optimiser, schedule, fresh, resumed):
                thing.step()
        assert fresh.param_groups[0]["lr"] < 0.001

    @pytest.mark.parametrize("epoch", [1, 3])
    def test_warm_up_goes_on_from_an_old_state_and_from_ours(self, fake: Any, epoch: int) -> None:
        module = fake("dassl.optim.lr_scheduler")
        optimiser, schedule = warm(module, nn.Linear(1, 1), epochs=epoch)
        rate = optimiser.param_groups[0]["lr"]
        old = {**schedule.state_dict(), "successor": schedule.successor}
        ours = {"last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": [rate]}
        optimiser.step()
        schedule.step()
        expected = optimiser.param_groups[0]["lr"]
        schedule.successor.last_epoch -= 1  # the old state holds the object as it was
        schedule.successor._last_lr = [rate]
        for state in (old, ours):
            fresh, resumed = warm(module, nn.Linear(1, 1))
            fresh.param_groups[0]["lr"] = rate  # the optimiser's own state brings this
            resumed.load_state_dict(state)
            fresh.step()
            resumed.step()
            assert fresh.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)

    def test_checkpoints_are_read_safely_by_whoever_holds_the_function(self, fake: Any, tmp_path: Path) -> None:
        load = fake("dassl.utils").load_checkpoint
        torch.save({"epoch": 3}, tmp_path / "good.pth")
        assert load(str(tmp_path / "good.pth")) == {"epoch": 3}
        (tmp_path / "bad.pth").write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match=r"bad\.pth"):
            load(str(tmp_path / "bad.pth"))

    def test_images_of_16_bits_are_rescaled_and_others_are_read_as_before(self, fake: Any, tmp_path: Path) -> None:
        read = fake("dassl.utils").read_image
        Image.fromarray(np.linspace(0, 40000, 512).astype(np.uint16)[None].repeat(4, 0)).save(tmp_path / "deep.png")
        assert len(np.unique(np.asarray(read(str(tmp_path / "deep.png"))))) >= 200
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        Image.fromarray(pixels).save(tmp_path / "plain.png")
        assert np.array_equal(np.asarray(read(str(tmp_path / "plain.png"))), pixels)

    def test_small_flaws(self, fake: Any, tmp_path: Path) -> None:
        had_it = hasattr(np, "int")
        assert fake("dassl.data.transforms.randaugment").whole([1.7]).tolist() == [1]
        assert hasattr(np, "int") == had_it  # it is there for Dassl alone
        fake("dassl.evaluation.evaluator").save(str(tmp_path / "cmat.pt"))
        assert torch.equal(torch.load(tmp_path / "cmat.pt", weights_only=True), torch.eye(2, dtype=torch.float64))
        accuracy = fake("dassl.metrics").compute_accuracy
        got = accuracy(torch.tensor([[3.0, 2, 1], [1, 2, 3]]), torch.tensor([1, 2]), topk=(1, 2))
        assert [value.item() for value in got] == [50, 100]
        stream = fake("dassl.utils").Logger()  # answers for the console, and leaves it open
        assert (stream.isatty(), stream.encoding) == (False, sys.stdout.encoding)
        stream.close()
        assert not sys.stdout.closed

    def test_patching_twice_is_patching_once(self, fake: Any) -> None:
        modules = [fake(name) for name in ("dassl.data.transforms.randaugment", "dassl.optim.lr_scheduler")]
        before = [dict(vars(module)) for module in modules]
        for _ in range(2):
            for module in modules:
                patches.patch(module)
            imports.install()
        assert [dict(vars(module)) for module in modules] == before
        assert sum(isinstance(one, DasslFinder) for one in sys.meta_path) == 1

    def test_nothing_is_written_to_dassls_files(self, fake: Any, tmp_path: Path) -> None:
        for name in patches.PATCHES:
            if (tmp_path / "tree" / Path(*name.split("."))).with_suffix(".py").exists():
                fake(name)
        for name, text in TREE.items():
            assert (tmp_path / "tree" / "dassl" / name).read_text() == textwrap.dedent(text)


def test_wilds_is_stood_in_for_and_logging_stays_as_it_is(no_dassl: None, tmp_path: Path) -> None:
    if importlib.util.find_spec("wilds"):
        pytest.skip("wilds is installed")
    sys.path.insert(0, str(plant(tmp_path)))
    logging.disable(logging.DEBUG)
    module = importlib.import_module("dassl.data.datasets.dg.wilds")
    assert logging.root.manager.disable == logging.DEBUG
    assert "wilds" not in sys.modules
    with pytest.raises(ImportError, match="pip install wilds"):
        module.get("camelyon17")
    logging.disable(logging.WARNING)  # what the import did before there was a patch
    imports.install()
    assert logging.root.manager.disable == logging.NOTSET


class TestFinder:
    def test_dassl_of_another_shape_is_left_alone(self, no_dassl: None, tmp_path: Path) -> None:
        package = tmp_path / "dassl"
        (package / "optim").mkdir(parents=True)
        for name in ("__init__.py", "optim/__init__.py", "optim/lr_scheduler.py"):
            (package / name).write_text("value = 3\n")
        sys.path.insert(0, str(tmp_path))
        assert importlib.import_module("dassl.optim.lr_scheduler").value == 3
        with pytest.raises(ModuleNotFoundError):  # ours does not fill the gaps of another's package
            importlib.import_module("dassl.engine")

    def test_bare_folder_of_that_name_is_no_dassl(self, no_dassl: None, tmp_path: Path) -> None:
        (tmp_path / "dassl").mkdir()
        sys.path[:] = [str(tmp_path), *[p for p in sys.path if not Path(p, "dassl", "__init__.py").exists()]]
        assert isinstance(importlib.import_module("dassl"), Facade)

    def test_importing_is_light(self) -> None:
        code = (
            "import sys, xcoop, dassl.config; dassl.config.get_cfg_default();"
            "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'sklearn'} & set(sys.modules);"
            "assert not heavy, heavy"
        )
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PYTHONPATH"] = str(Path(imports.__file__).parents[2])
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


@pytest.mark.dassl
@pytest.mark.skipif(not REAL, reason="XCOOP_REAL_DASSL names no checkout of Dassl")
@pytest.mark.parametrize("first", ["xcoop", "dassl"])
def test_contract_holds_on_the_real_dassl(first: str, tmp_path: Path) -> None:
    """All contract tests in a process of their own, in which Dassl was imported after or before this package."""
    order = "import xcoop, dassl.engine" if first == "xcoop" else BEFORE
    script = f"{order}\nimport pytest, sys\nsys.exit(pytest.main(sys.argv[1:]))"
    tests = sorted(str(path) for path in Path(__file__).parent.glob("test_contract*.py"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([REAL, *filter(None, sys.path)])}
    command = [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), *tests]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


# Dassl itself needs something called `wilds`.
BEFORE = """
import importlib.util, sys, types
if importlib.util.find_spec("wilds") is None:
    sys.modules["wilds"] = types.SimpleNamespace(get_dataset=None)
import dassl.engine
import xcoop
"""
