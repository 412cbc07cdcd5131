"""No test of this folder talks through a proxy, or with the key of whoever runs it."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OPENAI"):
            monkeypatch.delenv(name)
