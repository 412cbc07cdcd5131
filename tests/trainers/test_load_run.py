"""A finished run in three lines: load it, predict with it, explain an image; for every trainer."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from PIL import Image
from tiny_run import ConfigMaker, Usual

import xcoop
from xcoop.config.plugins import trainer_names
from xcoop.explain.maps import class_target
from xcoop.results.folder import occupied

TRAINERS = trainer_names()
VARIANTS = [(name, ()) for name in TRAINERS] + [
    ("XCoOp", ("TRAINER.XCOOP.TUNE_NORMS", True)),
    ("CoOp", ("TRAINER.COOP.CSC", True)),
    ("CLIPLoRA", ("TRAINER.CLIPLORA.CLINICAL", True)),
    ("ZeroshotCLIP", ("TRAINER.ZEROSHOTCLIP.CLINICAL", True)),
    ("ZeroshotCLIP", ("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "templates")),
    ("TipAdapterF", ("TRAINER.TIPADAPTERF.ENSEMBLE", "concepts", "TEST.FINAL_MODEL", "best_val")),
    ("LinearProbe", ("TEST.FINAL_MODEL", "best_val")),
]


def finished(make_cfg: ConfigMaker, name: str, *pairs: object) -> Path:
    cfg = make_cfg(name, *pairs)
    from xcoop.results.record import Origin

    folder = Path(cfg.OUTPUT_DIR)
    origin = Origin(cfg="tiny", command="test")
    with occupied(folder, cfg, origin):
        trainer = tiny_run.build(cfg)
        trainer.origin = origin
        trainer.train()
    return folder


def recorded(folder: Path) -> dict[str, list[float]]:
    rows = csv.DictReader((folder / "predictions.csv").open(encoding="utf-8"))
    return {row["image"]: [float(value) for key, value in row.items() if key.startswith("p_")] for row in rows}


@pytest.mark.parametrize(("name", "pairs"), VARIANTS)
def test_a_loaded_run_predicts_what_was_recorded_and_explains_one_image_and_a_batch_alike(
    name: str, pairs: tuple[object, ...], make_cfg: ConfigMaker, pictures: Path
) -> None:
    folder = finished(make_cfg, name, *pairs, "DATALOADER.TEST.BATCH_SIZE", 1)
    run = xcoop.load_run(folder, device="cpu")
    truth = recorded(folder)
    got = run.predict([pictures / image for image in truth])
    assert got.classnames == tuple(tiny_run.NAMES)
    np.testing.assert_allclose(got.probabilities, list(truth.values()), atol=1e-5)

    paths = sorted((pictures / "test").glob("*.png"))[:3]
    many = run.explain(paths, concepts=["deep shadow"])
    one = run.explain(paths[1], concepts=["deep shadow"])
    assert len(many) == 3
    assert one.predicted == many[1].predicted
    assert one.class_maps.keys() == set(tiny_run.NAMES)
    assert list(one.concept_maps) == ["deep shadow"]
    for label in tiny_run.NAMES:
        np.testing.assert_allclose(one.class_maps[label], many[1].class_maps[label], rtol=1e-3, atol=1e-5)
    assert one.probabilities == pytest.approx(many[1].probabilities, abs=1e-5)
    assert set(one.concept_scores) == {"low brightness", "deep shadow", "high brightness", "white glow"}
    assert one.text[0].startswith(f"The model sees {one.predicted}")
    for text, moved in one.contributions.items():
        other = many[1].contributions[text]
        for label in moved.keys() | other.keys():
            assert moved.get(label, 0.0) == pytest.approx(other.get(label, 0.0), abs=1e-3)


def test_a_turned_picture_is_one_image_in_every_form(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    run = xcoop.load_run(finished(make_cfg, "ZeroshotCLIP"), device="cpu")
    array = np.random.default_rng(3).integers(0, 120, (40, 30, 3), np.uint8)
    array[:12] = 255  # the turn matters
    exif, path = Image.Exif(), tmp_path / "turned.png"
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(array))).save(path, exif=exif)
    channels_first = torch.from_numpy(array).permute(2, 0, 1)
    opaque = np.concatenate([array, np.full((40, 30, 1), 255, np.uint8)], 2)
    ways = [
        path, str(path), run.preprocess(path)[0], path.read_bytes(), bytearray(path.read_bytes()),
        Image.open(path), Image.fromarray(array), array, opaque,
        array.astype(np.int32), array.astype(np.int64), array.astype(np.uint16) * 256, array / 255,
        array.transpose(2, 0, 1), channels_first, channels_first.int(),
    ]  # fmt: skip
    expected = run.predict(array).probabilities
    for way in ways:
        np.testing.assert_array_equal(run.predict(way).probabilities, expected)
    together = run.predict(ways).probabilities
    np.testing.assert_allclose(together, expected.repeat(len(ways), 0), atol=1e-6)
    grey16 = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
    assert run.predict(grey16).probabilities.shape == (1, 2)
    for several in (np.stack([array, array]), torch.stack([channels_first] * 2)):
        np.testing.assert_allclose(run.predict(several).probabilities, expected.repeat(2, 0), atol=1e-6)
    assert len(run.explain(np.stack([array, array]))) == 2  # type: ignore[arg-type]


NO_IMAGES = [
    ([], "no image"),
    ("missing.png", "missing.png"),
    (np.zeros((4, 4, 7), np.uint8), r"\(4, 4, 7\)"),
    (np.full((8, 8), 3.0), r"\[0, 1\]"),
    (torch.zeros(1, 8, 8), "preprocessed"),
    (torch.full((3, 32, 32), 0.5), "not normalised yet"),
    (torch.rand(2, 3, 32, 32), "not normalised yet"),
    (np.full((8, 8, 3), 200, np.uint16), "8 bits or a dark one of 16"),
    (np.zeros((3, 9, 3), np.uint8), "first or last"),
    ([7], "int is no image"),
    (None, "NoneType is no image"),
    (io.BytesIO(b"x"), "BytesIO is no image: hand over a path, the bytes"),
]


def test_what_is_no_image_is_refused(usual: Usual) -> None:
    run = xcoop.load_run(usual("ZeroshotCLIP").trainer.output_dir, device="cpu")
    for given, message in NO_IMAGES:
        with pytest.raises((ValueError, OSError), match=message):
            run.predict(given)  # type: ignore[arg-type]


def test_the_start_is_where_training_started(make_cfg: ConfigMaker) -> None:
    folder = finished(make_cfg, "XCoOp")
    run = xcoop.load_run(folder, device="cpu")
    fresh = tiny_run.build(make_cfg("XCoOp", output="fresh"))
    assert torch.equal(run.start["words"], fresh.model.trained_state()["words"])
    learned = run.model.trained_state()["words"]
    with run.at_start():
        assert torch.equal(run.model.trained_state()["words"], run.start["words"])
    assert torch.equal(run.model.trained_state()["words"], learned)
    assert not torch.equal(learned, run.start["words"])


def test_loading_leaves_the_random_numbers_alone(make_cfg: ConfigMaker) -> None:
    folder = finished(make_cfg, "CoOp")
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    xcoop.load_run(folder, device="cpu")
    assert torch.equal(torch.rand(3), want)


def test_a_folder_without_a_finished_run_names_those_below_it(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    folder = finished(make_cfg, "ZeroshotCLIP")
    with pytest.raises(FileNotFoundError, match=f"below it: .*{folder.name}"):
        xcoop.load_run(folder.parent)
    with pytest.raises(FileNotFoundError, match="not the folder of a finished run"):
        xcoop.load_run(tmp_path / "nothing")


def test_other_weights_of_the_backbone_are_refused(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    from helpers_clip import tiny_clip_state
    from safetensors.torch import save_file

    folder = finished(make_cfg, "CoOp")
    other = tmp_path / "elsewhere" / Path(make_cfg("CoOp").MODEL.BACKBONE.PATH).name
    other.parent.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tiny_clip_state(seed=9).items()}, other)
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    old = next(line for line in config.splitlines() if line.strip().startswith("PATH:") and "safetensors" in line)
    (folder / "config.yaml").write_text(config.replace(old, f"{old.partition('PATH:')[0]}PATH: {other}"))
    with pytest.raises(ValueError, match="SHA-256"):
        xcoop.load_run(folder)


@pytest.mark.parametrize(("key", "value"), [("SEED: 1", "SEED: 2"), ("LR: 0.01", "LR: 0.02")])
def test_an_edited_config_is_not_explained(key: str, value: str, make_cfg: ConfigMaker) -> None:
    folder = finished(make_cfg, "CoOp")
    config = folder / "config.yaml"
    assert key in config.read_text()
    config.write_text(config.read_text().replace(key, value))
    with pytest.raises(ValueError, match=r"config\.yaml was changed after the run"):
        xcoop.load_run(folder)


def test_a_truncated_checkpoint_is_named(make_cfg: ConfigMaker) -> None:
    folder = finished(make_cfg, "CoOp")
    path = folder / "prompt_learner" / "model.pth.tar-2"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.pth\.tar-2"):
        xcoop.load_run(folder)
    shutil.rmtree(path.parent)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        xcoop.load_run(folder)


def test_a_class_target_is_the_logit_that_the_model_uses(make_cfg: ConfigMaker, pictures: Path) -> None:
    run = xcoop.load_run(finished(make_cfg, "XCoOp"), device="cpu")
    features = run.features(sorted((pictures / "test").glob("*.png"))[:2])
    target = class_target(run.model, 1)
    torch.testing.assert_close(target.score(features), run.model.logits(features)[:, 1])
    assert target.direction(features).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_a_map_of_a_class_encodes_the_prompts_once(
    make_cfg: ConfigMaker, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map asks for the score in each block; with many prompts, text would take most of the time."""
    run = xcoop.load_run(finished(make_cfg, "XCoOp"), device="cpu")
    images = run.preprocess(min((pictures / "test").glob("*.png")))
    calls: list[int] = []
    encode = run.backbone.encode_embeddings
    monkeypatch.setattr(run.backbone, "encode_embeddings", lambda *args: (calls.append(1), encode(*args))[1])
    run.class_maps(images, 0, "legrad")
    assert len(calls) == 1
