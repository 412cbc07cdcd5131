"""Folders of own images as strangers have them: read as they are meant, or refused with what would be right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tree_tools import config, load, picture, write_csv

from xcoop.data.dataset import Raw, read_raw
from xcoop.data.splits import per_class
from xcoop.utils.console import DatasetError

CLASSES = ("benign", "malignant")


def classes(folder: Path, each: int = 10, seed: int = 0, names: tuple[str, ...] = CLASSES, end: str = ".png") -> Path:
    """`each` images in a directory for each class."""
    for number, name in enumerate(names):
        for i in range(each):
            picture(folder / name / f"{name[0]}{i}{end}", seed + 1000 * number + i)
    return folder


def in_splits(folder: Path, **each: int) -> Path:
    for number, (split, count) in enumerate(each.items()):
        classes(folder / split, count, 100 * number)
    return folder


def listed(folder: Path, row: str, header: str = "path,label", count: int = 12, below: str = "images") -> Path:
    """A table `t.csv` of images, a row each, in which `{i}` is a number and `{a}` the label."""
    for i in range(count):
        picture(folder / below / f"{i}.png", i)
    rows = (row.format(i=i, a="ab"[i % 2]) for i in range(count))
    (folder / "t.csv").write_text("\n".join([header, *rows]) if header else "\n".join(rows), encoding="utf-8")
    return folder


def raw(path: Path, **dataset: object) -> Raw:
    return read_raw(config("folder", "nowhere", PATH=str(path), **dataset))


def counts(found: Raw) -> dict[str, dict[str, int]]:
    return {split: per_class(items) for split, items in found.splits if items}


def refused(path: Path, **dataset: object) -> str:
    with pytest.raises((DatasetError, FileNotFoundError)) as caught:
        raw(path, **dataset)
    return str(caught.value)


def serious(found: Raw) -> str:
    return "\n".join(remark.text for remark in found.remarks if remark.matters)


class TestWithoutTestImages:
    @pytest.mark.parametrize(
        "names", [("train", "val"), ("Training", "Validation"), ("TRAIN", "dev"), ("trn", "valid")]
    )
    def test_val_is_the_test_if_that_is_asked_for(self, root: Path, names: tuple[str, str]) -> None:
        in_splits(root, **{names[0]: 10, names[1]: 4})
        told = refused(root)
        assert "has no test images; it has ['train', 'val']. DATASET.TEST_FROM val tests on the val images" in told
        assert "DATASET.TEST_FROM train makes a test of 30% of the train images, by patient" in told
        found = raw(root, TEST_FROM="val")
        assert counts(found) == {"train": dict.fromkeys(CLASSES, 10), "test": dict.fromkeys(CLASSES, 4)}
        assert "the 8 images of val are the test (DATASET.TEST_FROM val)" in serious(found)
        dataset = load("folder", "nowhere", PATH=str(root), TEST_FROM="val")
        assert {Path(item.impath).relative_to(root).parts[0] for item in dataset.val} == {names[0]}
        assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (18, 2, 8)

    def test_a_part_of_train_is_the_test_if_that_is_asked_for(self, root: Path) -> None:
        in_splits(root, train=10, val=4)
        found = raw(root, TEST_FROM="train")
        assert counts(found) == {
            split: dict.fromkeys(CLASSES, n) for split, n in (("train", 7), ("val", 4), ("test", 3))
        }
        assert "6 images of train are the test, by patient" in serious(found)
        other = raw(root, TEST_FROM="train", SPLIT_SEED=1)
        assert other.splits.test != found.splits.test

    def test_train_alone_is_divided_and_written_down(self, root: Path) -> None:
        in_splits(root, train=10)
        assert "DATASET.TEST_FROM val" not in refused(root)
        assert "has no test images" in refused(root, TEST_FROM="val")
        dataset = load("folder", "nowhere", PATH=str(root), TEST_FROM="train")
        assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (12, 2, 6)
        assert (root / "split-seed_0.json").is_file()

    def test_a_column_with_train_and_val_alone(self, root: Path) -> None:
        listed(root, "images/{i}.png,{a}", count=8)
        text = (root / "t.csv").read_text().splitlines()
        rows = [f"{line},{'split' if i == 0 else 'train' if i < 5 else 'val'}" for i, line in enumerate(text)]
        (root / "t.csv").write_text("\n".join(rows))
        assert "t.csv has no test images; it has ['train', 'val']" in refused(root)
        assert counts(raw(root, TEST_FROM="val")) == {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}}

    def test_with_test_images_it_is_refused(self, root: Path, tmp_path: Path) -> None:
        in_splits(root, train=10, test=4)
        assert len(load("folder", "nowhere", PATH=str(root)).val) == 2  # carved from train, without a key
        with pytest.raises(ValueError, match=r"has test images: leave out DATASET\.TEST_FROM val"):
            raw(root, TEST_FROM="val")
        with pytest.raises(ValueError, match=r"has no splits, and is given all three: leave out DATASET\.TEST_FROM"):
            raw(classes(tmp_path / "plain"), TEST_FROM="train")


class TestWrongPlaces:
    def test_a_path_names_itself_and_what_is_near(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classes(root / "my_images")
        monkeypatch.chdir(root)
        told = refused(Path("my_image"))
        assert told.splitlines() == [
            f"There is no folder or file my_image (below the current folder: {root / 'my_image'}), which DATASET.PATH "
            "names.",
            f"{root} holds my_images/. Did you mean 'my_images'?",
        ]
        assert "holds benign/, malignant/. Did you mean 'malignant'?" in refused(root / "my_images" / "maligant" / "x")

    def test_a_path_below_the_data_root(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classes(root / "my_images")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match=f"DATASET.PATH {root / 'my_images'}"):
            read_raw(config("folder", root, PATH="my_images"))

    @pytest.mark.parametrize("inner", ["my_images", "images", "MedNIST"])
    def test_a_folder_too_high(self, root: Path, inner: str) -> None:
        classes(root / inner)
        (root / "README.md").write_text("x")
        assert refused(root).endswith(f"looks like the folder that is meant: DATASET.PATH {root / inner}")

    def test_a_folder_too_low(self, root: Path) -> None:
        classes(root)
        told = refused(root / "benign")
        assert told == (
            f"{root / 'benign'} holds 10 images and no directory of a class, and lies beside 'malignant': it looks "
            f"like one class of DATASET.PATH {root}"
        )

    def test_one_split_of_several_is_read_with_a_warning(self, root: Path) -> None:
        in_splits(root, train=10, test=4)
        found = raw(root / "train")
        assert not found.splits.divided
        assert f"test beside it left unread: DATASET.PATH {root} reads them as splits" in serious(found)

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("set.zip", "set.zip is not read: unpack it, and name the folder; DATASET.PATH takes"),
            ("pneumoniamnist.npz", "see `xcoop data list`); DATASET.PATH takes"),
            ("labels.XLSX", "save the sheet as CSV (UTF-8)"),
            ("a.dcm", "save its images as PNG or TIFF"),
            ("a.JPG", "a.JPG is a single image; DATASET.PATH takes a folder"),
        ],
    )
    def test_a_file_that_lists_nothing(self, root: Path, name: str, told: str) -> None:
        root.mkdir()
        (root / name).write_bytes(b"x")
        assert told in refused(root / name)

    def test_what_an_unreadable_folder_holds(self, root: Path) -> None:
        root.mkdir()
        (root / "a.nii").write_bytes(b"x")
        told = "holds no image that is read (1 .nii (a.nii)); .nii: save its images as PNG or TIFF"
        assert refused(root).endswith(told)
        picture(root / "1.png", 1)
        assert "holds 1 images and nothing that tells their classes: put those of each class" in refused(root)


class TestDirectoriesThatMayBeMeantOtherwise:
    def test_images_beside_masks(self, root: Path) -> None:
        for name in ("images", "masks"):
            classes(root / name)
        assert (
            f"'images', 'masks' are no class by name: name the folder of the classes (DATASET.PATH {root}/images)"
            in (refused(root))
        )
        assert raw(root, CLASSES=["images", "masks"]).class_names == ("images", "masks")

    @pytest.mark.parametrize("names", [("imagesTr", "labelsTr"), ("images", "labels"), ("a", "b", "masks")])
    def test_directories_of_segmentations(self, root: Path, names: tuple[str, ...]) -> None:
        classes(root, names=names)
        assert "no class by name: move them elsewhere" in refused(root)

    def test_two_levels(self, root: Path) -> None:
        for number, name in enumerate(("site_a", "site_b")):
            classes(root / name, 6, 50 * number)
        told = refused(root)
        assert "each of 'site_a', 'site_b' holds 'benign', 'malignant'. State which of them are the classes" in told
        assert f'DATASET.CLASSES "{["benign", "malignant"]}"' in told
        assert counts(raw(root, CLASSES=list(CLASSES))) == {"train": dict.fromkeys(CLASSES, 12)}
        assert counts(raw(root, CLASSES=["site_a", "site_b"])) == {"train": dict.fromkeys(("site_a", "site_b"), 12)}

    def test_two_levels_of_which_one_lacks_a_class(self, root: Path) -> None:
        classes(root / "site_a", 6)
        classes(root / "site_b", 6, 50, CLASSES[:1])
        assert "each of 'site_a', 'site_b' holds 'benign', 'malignant'" in refused(root)
        sizes = {"benign": 12, "malignant": 6}
        assert counts(raw(root, CLASSES=list(CLASSES))) == {"train": sizes}

    def test_splits_below_the_classes(self, root: Path) -> None:
        for number, name in enumerate(CLASSES):
            classes(root / name, 6, 50 * number, ("train", "Valid", "test"))
        found = raw(root)
        assert counts(found) == {split: dict.fromkeys(CLASSES, 6) for split in ("train", "val", "test")}
        picture(root / "benign" / "loose.png", 4711)
        assert "1 images lie beside the directories of splits, in none of them: benign/loose.png" in refused(root)

    def test_images_of_a_split_without_classes(self, root: Path) -> None:
        in_splits(root, train=4)
        picture(root / "test" / "1.png", 1)
        assert "test holds 1 images (1.png) and no directory of a class" in refused(root)

    @pytest.mark.parametrize(("name", "warned"), [("P00{}", True), ("patient_{}", False)])
    def test_directories_that_may_be_patients(self, root: Path, name: str, warned: bool) -> None:
        for i in range(24):
            picture(root / CLASSES[i % 2] / name.format(i // 4) / f"{i}.png", i)
        found = raw(root)
        assert ("if each is of one patient, call them patient_1" in serious(found)) == warned
        assert len({item.patient for item in found.splits.all()}) == (1 if warned else 6)


class TestTables:
    def test_unrelated_ones_are_named_and_left(self, root: Path) -> None:
        classes(root)
        write_csv(root / "metadata.csv", ["sample", "value"], [(1, 2)])
        write_csv(root / "notes.csv", ["file", "note"], [("benign/b1.png", "blurred")])  # says nothing that is read
        write_csv(root / "predictions.csv", ["path", "label"], [("/elsewhere/b1.png", "benign")])
        (root / "results.xlsx").write_bytes(b"x")
        (root / "empty.csv").write_bytes(b"")
        found = raw(root)
        assert counts(found) == {"train": dict.fromkeys(CLASSES, 10)}
        told = serious(found)
        assert "the directories are the classes; left unread: empty.csv, metadata.csv, notes.csv, ..." in told
        assert f"(if it lists the images: DATASET.PATH {root / 'empty.csv'})" in told
        assert "1 .xlsx (results.xlsx)" in told

    def test_labels_that_contradict_the_directories_are_told(self, root: Path) -> None:
        classes(root)
        rows = [(f"{name}/{name[0]}{i}.png", name) for name in CLASSES for i in range(10)]
        write_csv(root / "labels.csv", ["path", "label"], rows)
        assert "labels are not the directory" not in serious(raw(root))
        write_csv(root / "labels.csv", ["path", "label"], [(rows[0][0], "malignant"), *rows[1:]])
        told = serious(raw(root))
        assert "1 of 20 labels are not the directory of their image, the first 'malignant' of benign/b0.png" in told

    def test_the_one_that_lists_the_images_is_read_beside_others(self, root: Path) -> None:
        classes(root)
        write_csv(root / "metadata.csv", ["sample", "value"], [(1, 2)])
        write_csv(
            root / "z.csv",
            ["path", "dx"],
            [(f"{name}/{name[0]}{i}.png", "xy"[i % 2]) for name in CLASSES for i in range(10)],
        )
        found = raw(root)
        assert found.class_names == ("x", "y")
        assert any("z.csv lists the images; left unread: metadata.csv" in remark.text for remark in found.remarks)
        (told,) = serious(found).splitlines()
        assert told.startswith("z.csv: 20 of 20 labels are not the directory of their image, the first 'x' of benign/")

    def test_a_fault_of_a_table_says_that_directories_would_do(self, root: Path) -> None:
        classes(root)
        write_csv(root / "patients.csv", ["id", "patient"], [("b1", 1)])
        told = refused(root)
        assert "patients.csv has no column 'label'" in told
        assert told.endswith("and patients.csv does not list their images, move it elsewhere")

    def test_a_table_for_each_split(self, root: Path) -> None:
        for split, count in (("train", 10), ("valid", 4), ("test", 4)):
            rows = []
            for i in range(count):
                picture(root / "images" / f"{split}{i}.png", 1000 * count + 100 * len(split) + i)
                rows.append((f"images/{split}{i}.png", "ab"[i % 2]))
            write_csv(root / f"{split}.csv", ["image", "label"], rows)
        sizes = {"train": 5, "val": 2, "test": 2}
        assert counts(raw(root)) == {split: {"a": n, "b": n} for split, n in sizes.items()}
        (root / "test.csv").unlink()
        assert "has no test images; it has ['train', 'val']" in refused(root)
        write_csv(root / "test.csv", ["image", "label"], [("images/train0.png", "a")])
        assert "lists images/train0.png twice, in the lines 2 and 2, in test and in train" in refused(root)
        write_csv(root / "test.csv", ["image", "label", "split"], [("images/test0.png", "a", "train")])
        assert "test.csv, line 2: 'train'; its name says 'test'" in refused(root)

    def test_a_competition(self, root: Path) -> None:
        """Images for which no label is given, and a table of invented ones."""
        listed(root, "{i},{a}", "id_code,diagnosis", below="train")
        (root / "t.csv").rename(root / "train.csv")
        picture(root / "test" / "t1.png", 4711)
        write_csv(root / "test.csv", ["id_code"], [("t1",)])
        write_csv(root / "sample_submission.csv", ["id_code", "diagnosis"], [("t1", 0)])
        told = f"tables (sample_submission.csv, train.csv): name the one to read with DATASET.PATH {root}/train.csv"
        assert told in refused(root)
        assert counts(raw(root / "train.csv")) == {"train": {"a": 6, "b": 6}}

    @pytest.mark.parametrize(
        ("header", "row"),
        [
            ("path;label;age", "images/{i}.png;{a};1,5"),
            ("\ufeffpath,label", "images/{i}.png,{a}"),
            ("path,label", "images\\{i}.png,{a}"),
            ("path,label", "my_set/images/{i}.png,{a}"),  # as seen from the folder above
            ("image_id,label", "{i},{a}"),
        ],
        ids=["semicolons", "BOM", "Windows", "from above", "names alone"],
    )
    def test_ways_to_write_a_table(self, root: Path, header: str, row: str) -> None:
        assert counts(raw(listed(root, row, header))) == {"train": {"a": 6, "b": 6}}

    def test_absolute_paths(self, root: Path) -> None:
        assert counts(raw(listed(root, f"{root}/images/{{i}}.png,{{a}}"))) == {"train": {"a": 6, "b": 6}}
        told = refused(listed(root, "C:\\data\\images\\{i}.png,{a}"))
        assert "is no path below the folder of the table; write it from there, or '0.png' alone" in told

    def test_the_images_of_another_folder_are_not_taken_instead(self, root: Path) -> None:
        """`train/3.png` that is not there is not `test/3.png`."""
        listed(root, "train/{i}.png,{a}", below="test")
        assert "12 of the 12 images" in refused(root)

    def test_a_table_without_a_header(self, root: Path) -> None:
        told = refused(listed(root, "{a},images/{i}.png", ""))
        assert "its first line names an image: put a line with the names of the columns above it, as path,label" in told

    def test_columns_of_0_and_1(self, root: Path) -> None:
        for i in range(12):
            picture(root / "ISIC_Input" / f"ISIC_{i:04}.jpg", i)
        rows = [(f"ISIC_{i:04}", float(i % 2), float(1 - i % 2), 0.0) for i in range(12)]
        write_csv(root / "GroundTruth.csv", ["image", "MEL", "NV", "UNK"], rows)
        assert counts(raw(root)) == {"train": {"MEL": 6, "NV": 6}}


def linked(folder: Path) -> None:
    """Directories, and files, that are links."""
    classes(folder.parent / "elsewhere")
    folder.mkdir()
    os.symlink(folder.parent / "elsewhere" / "benign", folder / "benign")
    (folder / "malignant").mkdir()
    for i in range(10):
        os.symlink(folder.parent / "elsewhere" / "malignant" / f"m{i}.png", folder / "malignant" / f"{i}.png")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: classes(folder, names=("Größe klein", "Größe groß")),
        lambda folder: classes(folder, end=".JPG"),
        linked,
    ],
    ids=["umlauts and blanks", "capital suffixes", "links"],
)
def test_plain_layouts(root: Path, make: Callable[[Path], object]) -> None:
    folder = root / "meine Bilder äöü"
    root.mkdir()
    make(folder)
    found = raw(folder)
    assert sorted(counts(found)["train"].values()) == [10, 10]
    assert found.remarks == ()
