"""The sets of BiomedCoOp: images in a folder a class, and the JSON file with the splits."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tree_tools import Damages, Layout, config, edit, empty, picture

NAMES = {
    **{"btmri": "BTMRI", "chmnist": "CHMNIST", "covid_19": "COVID_19", "ctkidney": "CTKidney"},
    **{"kneexray": "KneeXray", "kvasir": "Kvasir", "lungcolon": "LungColon", "retina": "RETINA"},
    **{"busi_biomedcoop": "BUSI", "dermamnist_biomedcoop": "DermaMNIST", "octmnist_biomedcoop": "OCTMNIST"},
}
EACH = {"train": 4, "val": 2, "test": 1}  # images a class


def biomedcoop(config_name: str, root: Path) -> Path:
    """The set with 4, 2 and 1 images a class; gives the split file."""
    name, suffix = NAMES[config_name], ".tif" if config_name == "chmnist" else ".png"
    classes, rows = config(config_name, root).DATASET.CLASSES, {}
    for split, each in EACH.items():
        files = [
            (f"{c.replace(' ', '_')}/{split} ({i}){suffix}", label, c)
            for label, c in enumerate(classes)
            for i in range(each)
        ]
        for seed, (path, _, _) in enumerate(files):
            picture(root / name / name / path, seed + 1000 * each)
        rows[split] = files
    source = root / name / f"split_{name}.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    return source


def layout(name: str) -> Layout:
    classes = config(name, "").DATASET.CLASSES
    train, val, test = (dict.fromkeys(classes, each) for each in EACH.values())
    return Layout(partial(biomedcoop, name), (train, val, test))


def change(work: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Changes the content of the split file."""

    def damage(source: Path) -> None:
        tree = json.loads(source.read_text(encoding="utf-8"))
        work(tree)
        source.write_text(json.dumps(tree), encoding="utf-8")

    return damage


def row(*values: object) -> Callable[[Path], object]:
    """Puts a row in the place of the second one of train."""
    return change(lambda tree: tree["train"].__setitem__(1, list(values)))


def swap(tree: dict[str, Any]) -> None:
    """Exchanges the labels of the first two classes."""
    for rows in tree.values():
        for entry in rows:
            entry[1] = {0: 1, 1: 0}.get(entry[1], entry[1])


LAYOUTS = {name: layout(name) for name in NAMES}

DAMAGES: dict[str, Damages] = {name: [(change(swap), "has other classes.*there: .*published: ")] for name in NAMES}
DAMAGES["btmri"] += [
    (lambda f: f.write_bytes(f.read_bytes()[:200]), r"split_BTMRI\.json is damaged: it is not valid JSON"),
    (lambda f: f.write_bytes(b"\xff\xfe\x00"), r"split_BTMRI\.json is damaged"),
    (lambda f: f.write_text("[" * 100_000), r"split_BTMRI\.json is damaged"),
    (lambda f: f.write_text("[]"), "must hold the keys train, val, test; it has list"),
    (change(lambda tree: tree.pop("val")), r"must hold the keys train, val, test; it has \['train', 'test'\]"),
    (change(lambda tree: tree.update(test={})), r"test must be a list of rows, not \{\}"),
    (change(lambda tree: tree.update(test=[])), r"test must be a list of rows, not \[\]"),
    (row("a.png", 0), r"train\[1\] must be \[path, whole number, class name\], not \['a.png', 0\]"),
    (row("a.png", "0", "glioma tumor"), r"train\[1\] must be .* '0'"),
    (row("a.png", True, "glioma tumor"), r"train\[1\] must be .* True"),
    (row("a.png", 0.0, "glioma tumor"), r"train\[1\] must be .* 0\.0"),
    (row("../a.png", 0, "glioma tumor"), r"train\[1\]: '\.\./a\.png' leads out of the folder"),
    (row("/etc/a.png", 0, "glioma tumor"), r"train\[1\]: '/etc/a\.png' leads out"),
    (row("C:/a.png", 0, "glioma tumor"), r"train\[1\]: 'C:/a\.png' leads out"),
    (row("a\\..\\b.png", 0, "glioma tumor"), r"train\[1\]: .* leads out"),
    (row("a.png", 9, "cyst"), r"there: .*9: 'cyst'\n  published: 0: 'glioma tumor', .*3: 'normal brain'$"),
    (row("a.png", -1, "glioma tumor"), "there: .*-1: 'glioma tumor'"),
    (lambda f: edit(f, "glioma tumor", "glioma"), "there: .*0: 'glioma', .*published: 0: 'glioma tumor'"),
    (change(lambda tree: [tree[split].pop() for split in ("train",) * 4 + ("val",) * 2 + ("test",)]), "published: "),
    (row("glioma_tumor/lost.png", 0, "glioma tumor"), r"1 of the 28 images .* are not in .*glioma_tumor/lost\.png"),
    (
        lambda f: empty(f.parent / "BTMRI" / "glioma_tumor"),
        r"7 of the 28 images that .*split_BTMRI\.json lists are not in .*\.\.\. and 2 more",
    ),
    (lambda f: (f.parent / "BTMRI").rename(f.parent / "images"), r"was not found. Looked for.*BTMRI/BTMRI"),
    (lambda f: next((f.parent / "BTMRI").rglob("*.png")).write_bytes(b"x"), "1 of 28 images cannot be read"),
]
