"""XCoOp: explainable, concept-guided prompt learning for medical images, beside CoOp and Dassl.

Importing this package is light (no torch). After it, `import dassl` works: with the Dassl that is installed,
patched for current PyTorch, or else with the compatible engine of this package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.engine.imports import install as _install_engine
from xcoop.moved import MovedModules as _MovedModules
from xcoop.version import __version__

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from xcoop.explain.trained import TrainedModel

_CHECKOUT = Path(__file__).resolve().parents[2]
if (_CHECKOUT / "setup.py").is_file() and (_CHECKOUT / "trainers").is_dir():
    # In a checkout the plug-in folders stand at its top; installed, they stand beside this file.
    __path__.append(str(_CHECKOUT))

_install_engine()
sys.meta_path.insert(0, _MovedModules())


def plug_in(cfg: CfgNode) -> None:
    """Adds XCoOp to a CoOp-style programme: call it in `extend_cfg`.

    It registers the trainers and datasets that the running engine does not have yet (a user's own `CoOp` stays
    theirs) and adds the config nodes that are missing.

    Args:
        cfg: the config of `dassl.config.get_cfg_default()`; changed in place.
    """
    from xcoop.config.plugins import plug_in as plug  # torch is imported here, not with the package

    plug(cfg)


def load_run(folder: str | Path, device: str | None = None) -> TrainedModel:
    """The trained model of a finished run, ready to predict and to explain.

        model = xcoop.load_run("output/phantom/XCoOp/phantom_16shots/seed1")
        model.predict(["lesion.jpg"]).probabilities  # (1, C)
        model.explain("lesion.jpg")  # in a notebook it shows itself; its sentences: .text

    Args:
        folder: a run's output folder, with `config.yaml`, `results.json` and its checkpoint.
        device: e.g. "cpu" or "cuda:0"; by default a GPU if there is one.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: its files are damaged, or its backbone has other weights now; the message names them.
    """
    from xcoop.explain.trained import load_run as load

    return load(Path(folder), device)


__all__ = ["__version__", "load_run", "plug_in"]
