"""What datasets know of their images, in the words of their banks; masks keep step with their images."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image

from xcoop.concepts import load_bank
from xcoop.concepts.words import load_wording
from xcoop.config.plugins import get_cfg
from xcoop.datasets.ph2 import CRITERIA
from xcoop.engine.parts import build_transform
from xcoop.explain.ground_truth import LESION, Truth, fit_mask, mask_files, meanings, read_masks, truth_of
from xcoop.phantom.layouts import write_chest, write_derm7pt

IRREGULAR_VESSELS = ("dotted", "linear irregular")
REGRESSION = ("blue areas", "white areas", "combinations")


def loaded(name: str, path: Path) -> Any:
    cfg = get_cfg()
    cfg.DATASET.NAME, cfg.DATASET.PATH, cfg.SEED = name, str(path), 1
    return DATASET_REGISTRY.get(name)(cfg)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def derm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("truth") / "derm"
    write_derm7pt(folder, 40, 3, size=64, workers=1)
    return loaded("Phantom", folder)


@pytest.fixture(scope="module")
def truth(derm: Any) -> Truth:
    found = truth_of(derm)
    assert found is not None
    return found


def test_labels_are_those_of_the_table(derm: Any, truth: Truth) -> None:
    """Against meta.csv, read here in another way."""
    folder = Path(derm.dataset_dir)
    expected = {
        "atypical pigment network": ("pigment_network", ("atypical",)),
        "no pigment network": ("pigment_network", ("absent",)),
        "irregular vessels": ("vascular_structures", IRREGULAR_VESSELS),
        "regression structures": ("regression_structures", REGRESSION),
        "irregular pigmentation": ("pigmentation", ("diffuse irregular", "localized irregular")),
        "blue-whitish veil": ("blue_whitish_veil", ("present",)),
        "hairpin vessels": ("vascular_structures", ("hairpin",)),
    }
    rows = rows_of(folder / "meta" / "meta.csv")
    for concept, (column, values) in expected.items():
        own = {str(folder / "images" / row["derm"]): int(row[column] in values) for row in rows}
        assert truth.labels[concept] == own
    items = [*derm.train_x, *derm.val, *derm.test]
    assert {item.impath for item in items} == set(truth.labels["regular streaks"])
    assert truth.unmatched == ()  # the phantom's bank speaks of nothing else


def test_masks_are_those_that_were_drawn(derm: Any, truth: Truth) -> None:
    folder, seen = Path(derm.dataset_dir), 0
    for item in [*derm.train_x, *derm.test]:
        drawn = folder / "masks" / Path(item.impath).stem
        lesion = truth.lesion_mask(item.impath)
        assert lesion is not None
        assert np.array_equal(lesion, np.asarray(Image.open(drawn / "lesion.png")) > 0)
        for concept in ("atypical pigment network", "typical pigment network"):
            mask = truth.mask(item.impath, concept)
            if truth.labels[concept][item.impath]:
                assert np.array_equal(mask, np.asarray(Image.open(drawn / "pigment_network.png")) > 0)
                seen += 1
            else:  # though there is a mask of the column, for the other kind of network
                assert mask is None
        assert truth.mask(item.impath, "no pigment network") is None
        assert truth.mask(item.impath, "no such concept") is None
    assert seen > 10


def test_another_bank_may_be_asked_for(derm: Any) -> None:
    truth = truth_of(derm, load_bank("derm7pt"))
    assert truth is not None
    assert "leaf-like areas" in truth.unmatched
    assert "atypical pigment network" in truth.labels
    assert not set(truth.unmatched) & set(truth.labels)


def test_the_chest_phantom(tmp_path: Path) -> None:
    write_chest(tmp_path / "chest", 40, 4, size=64, workers=1)
    dataset = loaded("Pneumonia", tmp_path / "chest")
    truth = truth_of(dataset)
    assert truth is not None
    rows = rows_of(tmp_path / "chest" / "chest_xray_masks" / "concepts.csv")
    values = {row["image"]: row for row in rows}
    expected = {
        "alveolar consolidation": lambda row: row["consolidation"] != "absent",
        "lobar consolidation": lambda row: row["consolidation"] not in ("absent", "patchy"),
        "obscured cardiac or diaphragmatic border": lambda row: row["obscured_border"] != "absent",
        "pleural effusion": lambda row: row["pleural_effusion"] != "absent",
        "diffuse interstitial pattern": lambda row: row["interstitial_opacity"] == "present",
        "hyperinflated lungs": lambda row: row["hyperinflation"] == "present",
        "normal heart size": lambda row: row["cardiomegaly"] == "absent",
    }
    items = [*dataset.train_x, *dataset.val, *dataset.test]
    assert len(items) == 24  # the 16 of `val` are left alone
    outlined = 0
    for item in items:
        path = Path(item.impath)
        for concept, holds in expected.items():
            assert truth.labels[concept][item.impath] == holds(values[path.name]), concept
        masks = tmp_path / "chest" / "chest_xray_masks" / path.parts[-3] / path.stem
        lungs, effusion = truth.lesion_mask(item.impath), truth.mask(item.impath, "pleural effusion")
        assert np.array_equal(lungs, np.asarray(Image.open(masks / "lungs.png")) > 127)
        assert (effusion is not None) == (masks / "pleural_effusion.png").is_file()
        outlined += effusion is not None
        assert truth.mask(item.impath, "normal heart size") is None
    assert outlined
    assert "clear lungs" in truth.unmatched


def texts(bank: str) -> list[str]:
    return [text for name in load_bank(bank).classes for text in load_bank(bank).texts(name)]


def test_ph2s_asymmetry_is_put_as_its_bank_does() -> None:
    table = {f"{i}.bmp": {name: list(own.values())[i % len(own)] for name, own in CRITERIA.items()} for i in range(12)}
    found = meanings(texts("ph2"), table, load_wording("ph2"))
    assert found["full symmetry"] == {"asymmetry": {"fully symmetric"}}
    assert found["asymmetry in both axes"] == {"asymmetry": {"fully asymmetric"}}
    assert found["atypical pigment network"] == {"pigment_network": {"atypical"}}
    assert found["regression areas"] == {"regression_areas": {"present"}}
    assert "homogeneous pigmentation" not in found


def test_skincon_in_singular_and_plural_and_by_two_columns() -> None:
    marks = ("Vesicle", "Bulla", "Pustule", "Warty/Papillomatous", "Exophytic/Fungating", "Telangiectasia")
    table = {"a.jpg": dict.fromkeys(marks, "absent"), "b.jpg": dict.fromkeys(marks, "absent") | {"Bulla": "present"}}
    found = meanings(texts("skincon"), table, load_wording("skincon"))
    assert found["pustules"] == {"Pustule": {"present"}}
    assert found["vesicles or bullae"] == {"Vesicle": {"present"}, "Bulla": {"present"}}
    assert found["warty papillomatous surface"] == {"Warty/Papillomatous": {"present"}}
    dataset = fake(table, "skincon")
    truth = truth_of(dataset)
    assert truth is not None
    assert truth.labels["vesicles or bullae"] == {"/data/a.jpg": 0, "/data/b.jpg": 1}


def test_what_is_unknown_is_left_out() -> None:
    table = {"a.jpg": {"streaks": "regular"}, "b.jpg": {"streaks": "unknown"}, "c.jpg": {"pigmentation": "absent"}}
    truth = truth_of(fake(table, "derm7pt"))
    assert truth is not None
    assert truth.labels["regular streaks"] == {"/data/a.jpg": 1}
    assert "irregular streaks" in truth.unmatched  # no image here, and no wording, speaks of that value
    assert truth.lesion_mask("/data/a.jpg") is None


def test_a_set_that_knows_nothing() -> None:
    assert truth_of(fake(None, "pneumonia")) is None
    assert truth_of(object()) is None


def fake(table: dict[str, dict[str, str]] | None, bank: str) -> SimpleNamespace:
    """As much of a dataset as is asked for here, in the folder /data."""
    return SimpleNamespace(
        dataset_dir="/data", about_name=bank, concept_bank=bank, is_phantom=False,
        train_x=[SimpleNamespace(impath=f"/data/{path}") for path in table or ["x.jpg"]], val=None, test=[],
        concept_labels=lambda folder: table,
    )  # fmt: skip


# Masks.


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
        ("", "a.png", []),
        ("busi", "benign/benign (4).png", ["benign/benign (4)_mask.png", "benign/benign (4)_mask_1.png"]),
    ],
)  # fmt: skip
def test_where_real_sets_keep_their_masks(tmp_path: Path, about_name: str, image: str, files: list[str]) -> None:
    for n, name in enumerate(files):
        save(tmp_path / name, np.eye(4, k=n, dtype=bool))
    dataset = SimpleNamespace(dataset_dir=str(tmp_path), about_name=about_name, is_phantom=False)
    found = mask_files(dataset)
    assert found(image, LESION) == [tmp_path / name for name in files]
    assert found(str(Path(image).with_name("another.png")), LESION) == []
    assert found(image, "pigment_network") == []
    mask = read_masks(found(image, LESION))
    assert [0, 4, 7][len(files)] == (0 if mask is None else mask.sum())
