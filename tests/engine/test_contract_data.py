"""Images, few-shot subsets, loaders and transforms, whichever engine answers."""

from __future__ import annotations

import pickle
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import read_image
from PIL import Image
from toy_engine import ANY, COUNTS, IS_REAL, items_of, make_cfg, ours_only, real_is_wrong

TRANSFORMS = (
    *("random_flip", "random_resized_crop", "normalize", "instance_norm", "random_crop", "random_translation"),
    *("center_crop", "cutout", "imagenet_policy", "cifar10_policy", "svhn_policy", "randaugment"),
    *("gaussian_noise", "colorjitter", "randomgrayscale", "gaussian_blur"),
)


def test_datum_holds_what_it_was_given_and_pickles_as_coop_does_it(squares: Path) -> None:
    item = Datum(impath=str(squares / "train-1-0.png"), label=1, domain=2, classname="green")
    assert (item.label, item.domain, item.classname) == (1, 2, "green")
    with pytest.raises(AttributeError):
        item.label = 3
    copy = pickle.loads(pickle.dumps(item))
    assert (copy.impath, copy.label, copy.classname) == (item.impath, item.label, item.classname)
    assert set(vars(item)) == {"_impath", "_label", "_domain", "_classname"}
    assert Datum.__module__ == "dassl.data.datasets.base_dataset"  # by which few-shot files refer to it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AssertionError):
            Datum(impath="/nowhere/picture.png")


def test_few_shots_are_those_of_random_sample_label_by_label(squares: Path) -> None:
    train, val = items_of(squares, "train")[::-1], items_of(squares, "val")  # the first label seen is 2
    base = DatasetBase(train_x=train)
    random.seed(5)
    drawn = base.generate_fewshot_dataset(train, num_shots=3)
    random.seed(5)
    assert drawn == [i for label in (2, 1, 0) for i in random.sample([t for t in train if t.label == label], 3)]
    assert [len(part) for part in base.generate_fewshot_dataset(train, train, num_shots=1)] == [3, 3]
    assert base.generate_fewshot_dataset(train) is train
    assert base.generate_fewshot_dataset(train, train, num_shots=0) == (train, train)
    assert len(base.generate_fewshot_dataset(val, num_shots=8)) == 3 * COUNTS["val"]  # too few: all, or repeated
    repeated = base.generate_fewshot_dataset(val, num_shots=8, repeat=True)
    assert Counter(i.label for i in repeated) == {0: 8, 1: 8, 2: 8}


def test_dataset_says_what_it_holds(squares: Path) -> None:
    dataset = DatasetBase(train_x=items_of(squares, "train"), test=items_of(squares, "test"))
    assert dataset.num_classes == 3
    assert dataset.classnames == ["red", "green", "blue"]
    assert dict(dataset.lab2cname) == {0: "red", 1: "green", 2: "blue"}
    assert not dataset.val
    assert not dataset.train_u
    assert {k: len(v) for k, v in dataset.split_dataset_by_label(dataset.test).items()} == {0: 5, 1: 5, 2: 5}


@real_is_wrong("reads the class names from the training split alone")
def test_class_without_a_training_image_keeps_its_name(squares: Path) -> None:
    some = [item for item in items_of(squares, "train") if item.label != 1]
    assert DatasetBase(train_x=some, test=items_of(squares, "test")).classnames == ["red", "green", "blue"]


class Renamed(DatasetBase):
    """A programme's dataset that names its classes by a method of its own, and then sets what the base has read."""

    @staticmethod
    def get_lab2cname(data_source: Any) -> Any:
        names = {item.label: item.classname.upper() for item in data_source}
        return names, [names[label] for label in sorted(names)]

    def __init__(self, train: Any) -> None:
        super().__init__(train_x=train)
        self._train_x = train[:2]


def test_a_programmes_dataset_may_say_parts_of_the_base_otherwise(squares: Path) -> None:
    dataset = Renamed(items_of(squares, "train"))
    assert (dataset.classnames, dataset.num_classes, len(dataset.train_x)) == (["RED", "GREEN", "BLUE"], 3, 2)


class OwnManager(DataManager):
    """A programme's copy of the manager: it calls no `super().__init__`, and makes its loaders itself."""

    def __init__(self, cfg: Any, squares: Path) -> None:
        self.dataset = DatasetBase(train_x=items_of(squares, "train"), test=items_of(squares, "test"))
        node = cfg.DATALOADER.TRAIN_X
        self.train_loader_x = build_data_loader(
            cfg,
            sampler_type=node.SAMPLER,
            data_source=self.dataset.train_x,
            batch_size=node.BATCH_SIZE,
            n_domain=node.N_DOMAIN,
            n_ins=node.N_INS,
            tfm=build_transform(cfg, is_train=True),
        )
        self._num_classes = self.dataset.num_classes
        self._num_source_domains = 0
        self._lab2cname = self.dataset.lab2cname
        self.show_dataset_summary(cfg)


class TestLoaders:
    def test_a_programmes_own_manager(self, squares: Path, tmp_path: Path, capsys: Any) -> None:
        manager = OwnManager(make_cfg(squares, tmp_path), squares)
        assert (manager.num_classes, manager.num_source_domains, manager.lab2cname[1]) == (3, 0, "green")
        assert len(next(iter(manager.train_loader_x))["label"]) == 8
        assert "# train_x  18" in capsys.readouterr().out

    def test_samplers_by_name(self, squares: Path, tmp_path: Path) -> None:
        items = items_of(squares, "train")
        assert list(build_sampler("SequentialSampler", data_source=items, batch_size=4)) == list(range(18))
        shuffled = list(build_sampler("RandomSampler", None, items, 4, n_domain=0, n_ins=16))
        assert sorted(shuffled) == list(range(18))
        with pytest.raises(ValueError, match="SomeSampler"):
            DataManager(make_cfg(squares, tmp_path, "DATALOADER.TRAIN_X.SAMPLER", "SomeSampler"))

    def test_incomplete_training_batch_is_dropped_unless_it_is_all(self, squares: Path, tmp_path: Path) -> None:
        manager = DataManager(make_cfg(squares, tmp_path, "DATALOADER.TRAIN_X.BATCH_SIZE", 7))
        assert [len(batch["label"]) for batch in manager.train_loader_x] == [7, 7]  # 18 images
        options = ("DATALOADER.TRAIN_X.BATCH_SIZE", 32, "DATALOADER.TEST.BATCH_SIZE", 4)
        manager = DataManager(make_cfg(squares, tmp_path, *options))
        assert [len(batch["label"]) for batch in manager.train_loader_x] == [18]
        assert [len(batch["label"]) for batch in manager.test_loader] == [4, 4, 4, 3]

    def test_batches_hold_what_trainers_read(self, squares: Path, tmp_path: Path, capsys: Any) -> None:
        manager = DataManager(make_cfg(squares, tmp_path))
        batch = next(iter(manager.test_loader))
        assert batch["img"].shape == (15, 3, 16, 16)
        assert batch["img"].dtype == torch.float32
        assert batch["label"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert batch["index"].tolist() == list(range(15))
        assert batch["domain"].dtype == torch.int64
        assert batch["impath"][0].endswith("test-0-0.png")
        assert (manager.num_classes, manager.num_source_domains, manager.lab2cname[2]) == (3, 0, "blue")
        assert manager.train_loader_u is None
        text = capsys.readouterr().out
        for words in ("Loading dataset: Squares", "# classes  3", "# train_x  18", "# val      9", "# test     15"):
            assert words in text

    def test_custom_transform_takes_the_place_of_the_configs(self, squares: Path, tmp_path: Path, capsys: Any) -> None:
        manager = DataManager(make_cfg(squares, tmp_path), custom_tfm_test=lambda image: torch.ones(2))
        assert next(iter(manager.test_loader))["img"].shape == (15, 2)
        assert "* Using custom transform for testing" in capsys.readouterr().out

    @ours_only("domains and unlabelled images are for Dassl")
    def test_what_domain_adaptation_needs_is_refused_with_the_remedy(self, squares: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"RandomDomainSampler needs Dassl itself.*Dassl\.pytorch on PYTHONPATH"):
            DataManager(make_cfg(squares, tmp_path, "DATALOADER.TRAIN_X.SAMPLER", "RandomDomainSampler"))
        with pytest.raises(NotImplementedError, match="needs Dassl itself"):
            DatasetBase(train_x=items_of(squares, "train")).check_input_domains(["a"], ["b"])


def test_several_views_and_several_transforms(squares: Path, tmp_path: Path) -> None:
    items = items_of(squares, "train")
    cfg = make_cfg(squares, tmp_path, "DATALOADER.K_TRANSFORMS", 3, "DATALOADER.RETURN_IMG0", True)
    transform = build_transform(cfg, is_train=True)
    item = DatasetWrapper(cfg, items, transform=transform, is_train=True)[4]
    assert len(item["img"]) == 3
    assert not torch.equal(item["img"][0], item["img"][1])
    assert item["img0"].shape == (3, 16, 16)
    assert torch.is_tensor(DatasetWrapper(cfg, items, transform=transform)[4]["img"])  # one view in a test
    with pytest.raises(ValueError, match="transform"):
        DatasetWrapper(cfg, items, is_train=True)
    pair = [lambda image: torch.zeros(1), lambda image: torch.ones(1)]
    item = DatasetWrapper(make_cfg(squares, tmp_path), items, transform=pair, is_train=True)[0]
    assert (item["img"].item(), item["img2"].item()) == (0, 1)


class TestTransforms:
    def test_without_augmentation_a_test_image_is_cropped_and_a_training_image_squeezed(
        self, squares: Path, tmp_path: Path
    ) -> None:
        image = read_image(str(squares / "test-0-0.png"))  # 24 x 20
        small = image.resize((int(24 * 16 / 20), 16), Image.Resampling.BICUBIC)  # the smaller edge becomes 16
        left = round((small.width - 16) / 2)
        cropped, squeezed = small.crop((left, 0, left + 16, 16)), image.resize((16, 16), Image.Resampling.BICUBIC)
        cfg = make_cfg(squares, tmp_path, "INPUT.INTERPOLATION", "bicubic", "INPUT.TRANSFORMS", ("normalize",))
        for is_train, pixels in ((False, cropped), (True, squeezed)):
            expected = (np.asarray(pixels) / 255.0 - cfg.INPUT.PIXEL_MEAN) / cfg.INPUT.PIXEL_STD
            out = build_transform(cfg, is_train=is_train)(image)
            np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), expected, atol=1e-5)

    def test_each_transform_gives_an_image_of_the_right_size(self, squares: Path, tmp_path: Path) -> None:
        image = read_image(str(squares / "test-0-0.png"))
        for name in TRANSFORMS:
            transform = build_transform(make_cfg(squares, tmp_path, "INPUT.TRANSFORMS", (name,)), is_train=True)
            assert all(transform(image).shape == (3, 16, 16) for _ in range(4)), name

    def test_cutout_and_instance_norm_do_what_they_say(self, squares: Path, tmp_path: Path) -> None:
        image = Image.new("RGB", (32, 32), (255, 255, 255))
        options = ("INPUT.TRANSFORMS", ("cutout",), "INPUT.SIZE", (32, 32), "INPUT.CUTOUT_LEN", 8)
        cfg = make_cfg(squares, tmp_path, *options)
        holes = [int((build_transform(cfg)(image)[0] == 0).sum()) for _ in range(20)]
        assert max(holes) == 64  # 8 x 8, less where the border cuts it off
        assert min(holes) >= 16
        cfg = make_cfg(squares, tmp_path, "INPUT.TRANSFORMS", ("instance_norm",))
        out = build_transform(cfg, is_train=False)(read_image(str(squares / "test-0-0.png")))
        torch.testing.assert_close(out.mean((1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.flatten(1).std(1), torch.ones(3), atol=1e-5, rtol=0)

    def test_unknown_name_is_an_assertion_error_with_the_nearest(self) -> None:
        told = {"random_flap": "random_flip", "randaugment_fixmatch": "'randaugment_fixmatch' needs Dassl itself"}
        for name in ("random_flap",) if IS_REAL else told:
            with pytest.raises(AssertionError, match=ANY if IS_REAL else told[name]):
                build_transform(get_cfg_default(), choices=[name])

    def test_no_transform_gives_none(self) -> None:
        cfg = get_cfg_default()
        cfg.INPUT.NO_TRANSFORM = True
        assert build_transform(cfg) is None


def test_grey_of_16_bits_is_rescaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 40000, 256).astype(np.uint16)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    image = read_image(str(tmp_path / "ramp.png"))
    assert image.mode == "RGB"
    assert len(np.unique(np.asarray(image))) >= 200


@real_is_wrong("raises an error that does not name the file, or none until the image is used")
def test_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.png"):
        read_image(str(tmp_path / "page.png"))
