"""The one place that imports `clip`, and makes sure that it is OpenAI's.

It may be the installed `clip-anytorch`, OpenAI's own package, or the copy that a CoOp checkout carries (and which
hides the installed one there). All three have the same functions; where they differ, nothing here relies on them.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_lock = threading.Lock()


def import_clip() -> Any:
    """OpenAI's `clip`, with `tokenize`, `model.build_model` and the table of released weights.

    Raises:
        ImportError: there is none, or another package answers to that name; the message says which.
    """
    with _lock:
        module = _import()
    _check(module)
    return module


def _import() -> ModuleType:
    try:
        return importlib.import_module("clip")
    except (ImportError, AttributeError):  # AttributeError: a pkg_resources that is too old for this Python
        pass
    try:
        with _pkg_resources_stand_in():
            return importlib.import_module("clip")
    except ImportError as error:
        raise ImportError(f"OpenAI's clip cannot be imported ({error}): pip install clip-anytorch") from error


@contextmanager
def _pkg_resources_stand_in() -> Iterator[None]:
    """While it lasts, `from pkg_resources import packaging` works.

    clip-anytorch 2.6.0 compares versions that way; setuptools 70 dropped `packaging` from there, and setuptools 82
    dropped pkg_resources. Nobody else sees the stand-in once clip is imported.
    """
    stand_in: Any = ModuleType("pkg_resources")
    importlib.import_module("packaging.version")
    stand_in.packaging = sys.modules["packaging"]
    before = {name: module for name, module in sys.modules.items() if name == "pkg_resources"}
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
        sys.modules.update(before)


def _check(module: Any) -> None:
    inner = getattr(module, "clip", None)
    model = getattr(module, "model", None)
    if not (hasattr(module, "tokenize") and hasattr(model, "build_model") and hasattr(inner, "_MODELS")):
        raise ImportError(
            f"the package `clip` found at {getattr(module, '__file__', None)} is not OpenAI's CLIP (the one called "
            "`clip` on PyPI is another project): pip uninstall clip, then pip install clip-anytorch"
        )
