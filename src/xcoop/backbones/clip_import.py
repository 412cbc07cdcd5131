"""The one place that imports OpenAI's `clip`: the installed package, under a name of ours.

A CoOp checkout carries a folder `clip`, which hides the installed package there, and which some forks have changed
(prompts inside the towers, other arguments of `build_model`). What `import clip` gives is left to its owner; here the
files of the installed distribution are loaded as `xcoop._clip`, so that both live in one process.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

NAME = "xcoop._clip"
DISTRIBUTIONS = ("clip-anytorch", "clip")  # the second is the name of OpenAI's own, and of another project on PyPI

_lock = threading.Lock()


def import_clip() -> Any:
    """OpenAI's `clip`, with `tokenize`, `model.build_model` and the table of released weights.

    Raises:
        ImportError: it is not installed.
    """
    with _lock:
        if NAME not in sys.modules:
            _load(_installed() / "__init__.py")
        return sys.modules[NAME]


def _installed() -> Path:
    """The folder of the installed package."""
    for name in DISTRIBUTIONS:
        try:
            folder = Path(str(distribution(name).locate_file("clip")))
        except PackageNotFoundError:
            continue
        if all((folder / file).is_file() for file in ("__init__.py", "clip.py", "model.py")):
            return folder
    raise ImportError("OpenAI's CLIP is not installed: pip install clip-anytorch")


def _load(path: Path) -> None:
    spec: Any = importlib.util.spec_from_file_location(NAME, path, submodule_search_locations=[str(path.parent)])
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[NAME]
        raise
