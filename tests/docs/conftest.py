"""A folder that looks like the checkout from which a reader types."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from shown_commands import README, blocks, checkout


@pytest.fixture(scope="session")
def typed_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder with a few images in `my_images`, and the README's concept bank beside them."""
    folder = checkout(tmp_path_factory.mktemp("docs") / "XCoOp")
    for number in range(12):
        path = folder / "my_images" / ("melanoma", "nevus")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 100, 50)).save(path)
    (bank,) = blocks(README, "yaml")
    (folder / "my_images" / "concepts.yaml").write_text(bank)
    return folder
