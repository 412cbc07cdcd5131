"""Masks keep step with their images, and are found where each set keeps them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xcoop.config.defaults import get_cfg
from xcoop.engine.transforms import build_transform
from xcoop.explain.masks import fit_mask, mask_files, read_masks


def save(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)


@pytest.mark.parametrize("shape", [(90, 61), (61, 90), (300, 450), (97, 97)])
@pytest.mark.parametrize("size", [(64, 64), (48, 64)])
def test_a_mask_goes_where_its_image_goes(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """A picture that is the mask itself, asymmetric both ways, through the test transform of the engine."""
    height, width = shape
    mask = np.zeros(shape, bool)
    mask[height // 10 : height * 6 // 10, width * 3 // 10 : width * 5 // 10] = True
    mask[height * 7 // 10 :, width * 8 // 10 :] = True
    cfg = get_cfg()
    cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS, cfg.INPUT.INTERPOLATION = size, (), "bicubic"
    transform = build_transform(cfg, is_train=False)
    shown = transform(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).convert("RGB"))[0].numpy()
    fitted = fit_mask(mask, size)
    assert fitted.shape == shown.shape == size
    assert (fitted != (shown > 0.5)).mean() < 0.02
    assert (fitted[::-1] != (shown > 0.5)).mean() > 0.1  # it is asymmetric indeed
    assert (fitted[:, ::-1] != (shown > 0.5)).mean() > 0.1


def test_one_number_is_a_square_and_nothing_is_resized_in_vain() -> None:
    mask = np.random.default_rng(0).random((32, 40)) < 0.5
    assert np.array_equal(fit_mask(mask, 32), mask[:, 4:36])


def test_the_union_of_files(tmp_path: Path) -> None:
    one, other = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    one[0, 1] = other[3, 5] = True
    save(tmp_path / "a.png", one)
    save(tmp_path / "b.png", other)
    assert np.array_equal(read_masks([tmp_path / "a.png", tmp_path / "b.png"]), one | other)
    assert read_masks([]) is None
    save(tmp_path / "c.png", np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match=r"differ in size.*c\.png"):
        read_masks([tmp_path / "a.png", tmp_path / "c.png"])


@pytest.mark.parametrize(
    ("about_name", "image", "files"),
    [
        ("ph2", "PH2 Dataset images/IMD1/IMD1_Dermoscopic_Image/IMD1.bmp",
         ["PH2 Dataset images/IMD1/IMD1_lesion/IMD1_lesion.bmp"]),
        ("isic2018", "ISIC2018_Task3_Training_Input/ISIC_1.jpg",
         ["HAM10000_segmentations_lesion_tschandl/ISIC_1_segmentation.png"]),
        ("busi", "benign/benign (4).png", ["benign/benign (4)_mask.png", "benign/benign (4)_mask_1.png"]),
    ],
)  # fmt: skip
def test_where_real_sets_keep_their_masks(tmp_path: Path, about_name: str, image: str, files: list[str]) -> None:
    for n, name in enumerate(files):
        save(tmp_path / name, np.eye(4, k=n, dtype=bool))
    dataset = SimpleNamespace(dataset_dir=str(tmp_path), about_name=about_name, is_phantom=False)
    found = mask_files(dataset)
    assert found.of_lesion(image) == [tmp_path / name for name in files]
    assert found.of_lesion(str(Path(image).with_name("another.png"))) == []
    assert found.of_concept(image, "pigment_network") == []
    mask = read_masks(found.of_lesion(image))
    assert mask is not None
    assert mask.sum() == (4 if len(files) == 1 else 7)


def test_a_set_without_masks(tmp_path: Path) -> None:
    found = mask_files(SimpleNamespace(dataset_dir=str(tmp_path), about_name="", is_phantom=False))
    assert (found.of_lesion("a.png"), found.of_concept("a.png", "x")) == ([], [])
