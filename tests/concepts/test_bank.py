"""Concept banks: what ships is sound, what breaks the schema is named, and classes are matched."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from xcoop.concepts import load_bank
from xcoop.concepts.bank import BankError, Elicited, bank_names

GOOD: dict[str, Any] = {
    "name": "demo",
    "version": "2",
    "dataset": "Demo",
    "template": "a photo of a {class}, {concepts}.",
    "reviewed_by": ["A. Clinician"],
    "sources": {"book": "A book. 1999.", "web": "A page."},
    "classes": {
        "cat_like": [{"concept": "whiskers", "source": "book"}, {"concept": "claws", "source": "web"}],
        "Dog": [{"concept": "floppy ears", "source": "book"}],
    },
}
ELICITED: dict[str, Any] = {
    "model": "tiny", "host": "localhost", "date": "2026-01-31", "samples": 3, "threshold": 0.5,
    "prompt_sha256": hashlib.sha256(b"What is seen?").hexdigest(), "prompt": "What is seen?",
}  # fmt: skip


def write(folder: Path, content: object) -> Path:
    path = folder / "bank.yaml"
    text = content if isinstance(content, (str, bytes)) else yaml.safe_dump(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def changed(*keys: str | int, to: object = None, drop: bool = False) -> dict[str, Any]:
    """The good bank with one value set or dropped."""
    place = bank = deepcopy(GOOD)
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    if drop:
        del place[keys[-1]]
    return bank


def test_a_bank_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    bank = load_bank(path)
    assert (bank.name, bank.version, bank.dataset, bank.reviewed_by) == ("demo", "2", "Demo", ("A. Clinician",))
    assert bank.texts("cat_like") == ["whiskers", "claws"]
    assert bank.classes["Dog"][0].source == "book"
    assert bank.sources["book"] == "A book. 1999."
    assert bank.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_bank(str(path)) == bank


def test_a_bank_of_a_few_lines_is_enough(tmp_path: Path) -> None:
    text = 'template: "a photo of a {class}, {concepts}."\nclasses:\n  cat: [whiskers, claws]\n  dog: [floppy ears]\n'
    bank = load_bank(write(tmp_path, text))
    assert (bank.name, bank.version, bank.dataset, bank.reviewed_by, bank.sources) == (
        "bank", "unnumbered", "bank", (), {},
    )  # fmt: skip
    assert [(concept.text, concept.source) for concept in bank.classes["cat"]] == [("whiskers", ""), ("claws", "")]


def test_a_source_may_be_left_out_of_a_concept(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, changed("classes", "Dog", 0, "source", drop=True)))
    assert [(concept.text, concept.source) for concept in bank.classes["Dog"]] == [("floppy ears", "")]


def test_every_bank_of_the_package_says_who_named_its_concepts() -> None:
    for name in bank_names():
        bank = load_bank(name)
        assert all(concept.source for own in bank.classes.values() for concept in own), name
        assert (bank.name, bank.version) == (name, str(int(bank.version))), name


def test_an_elicited_bank_says_so(tmp_path: Path) -> None:
    elicited = changed("classes", "Dog", 0, "votes", to=2) | {"elicited": ELICITED}
    bank = load_bank(write(tmp_path, elicited))
    assert bank.elicited == Elicited(**ELICITED)
    assert (bank.classes["Dog"][0].votes, bank.classes["cat_like"][0].votes) == (2, None)
    assert load_bank(write(tmp_path, GOOD)).elicited is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the bank must be a mapping"),
        ("- 1", "the bank must be a mapping"),
        ("name: [", "not valid YAML"),
        ("name: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("name: a\nname: b\n", "line 2: the key 'name' stands twice"),
        (yaml.safe_dump(GOOD).replace("cat_like:", "Dog:"), "the key 'Dog' stands twice"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (yaml.safe_dump(GOOD) + "templates: x\n", "Unknown key 'templates'. Did you mean 'template'"),
        *((changed(key, drop=True), f"the bank lacks '{key}'") for key in ("template", "classes")),
        (changed("sources", drop=True), "class 'Dog', concept 'floppy ears': Unknown source 'book'"),
        (changed("version", to=2), "version must be a text .* not 2"),
        (changed("version", to=" "), "version must be a text"),
        (changed("reviewed_by", to="me"), "reviewed_by must be a list"),
        (changed("sources", to={}), "sources must be a mapping with at least one"),
        (changed("sources", "book", to=None), "source 'book' must be a text"),
        (changed("classes", to=["Dog"]), "classes must be a mapping"),
        (changed("classes", to={}), "classes must be a mapping with at least one"),
        (GOOD | {1: "x"}, "the bank: Unknown key '1'"),
        (changed("classes", False, to=[]), "a class name must be a text .* not False"),
        (changed("classes", "dog", to=GOOD["classes"]["Dog"]), "'Dog' and 'dog' are the same"),
        (changed("classes", "Dog", to=[]), "class 'Dog' has no concepts"),
        (changed("classes", "Dog", to="floppy"), "class 'Dog' must be a list, not 'floppy'"),
        (changed("classes", "Dog", 0, to=["floppy"]), "class 'Dog', concept .*floppy.* must be a text"),
        (changed("classes", "Dog", 0, to=False), "class 'Dog', concept False must be a text .quote it"),
        (changed("classes", "Dog", 0, to=" "), "class 'Dog', a concept must be a text"),
        (changed("classes", "Dog", 0, "concept", drop=True), "class 'Dog', concept .* lacks 'concept'"),
        (changed("classes", "Dog", 0, "source", to="bok"), "Unknown source 'bok'. Did you mean 'book'"),
        (changed("classes", "Dog", 0, "concept", to=""), "class 'Dog', concept '', concept must be a text"),
        (changed("classes", "Dog", 0, "concept", to=7), "class 'Dog', concept 7, concept must be a text .* not 7"),
        (changed("classes", "Dog", 0, "weight", to=7), "Unknown key 'weight'"),
        (changed("classes", "cat_like", 1, "concept", to="Whiskers"), "'cat_like' holds the concept 'Whiskers' twice"),
        (changed("classes", "Dog", 0, "votes", to=0), "'floppy ears', votes must be a whole number above 0, not 0"),
        (changed("classes", "Dog", 0, "votes", to="3"), "'floppy ears', votes must be a whole number"),
        (changed("elicited", to="by a model"), "elicited must be a mapping with the keys model, host"),
        (
            changed("elicited", to={"model": "tiny", "host": "x", "date": "x"}),
            "elicited lacks 'samples', 'threshold'",
        ),
        (changed("elicited", to={**ELICITED, "sample": 1}), "elicited: Unknown key 'sample'. Did you mean 'samples'"),
        (changed("elicited", to={**ELICITED, "samples": 0}), "elicited, samples must be a whole number above 0"),
        (changed("elicited", to={**ELICITED, "threshold": 50}), "threshold must be a share above 0, at most 1, not 50"),
        (changed("elicited", to={**ELICITED, "prompt": "other"}), "prompt is not the text that prompt_sha256"),
        (GOOD | {"mined": 3}, "mined must be a mapping with the keys images, shots, seed"),
        (GOOD | {"mined": {"images": {}}}, "mined, images must be a mapping with at least one entry"),
        (GOOD | {"mined": {"images": {"Dog": 0}}}, "mined, images of Dog must be a whole number above 0, not 0"),
        (GOOD | {"mined": {"images": {"Dog": 4}, "shots": 4}}, "mined: shots and seed stand together"),
        (GOOD | {"mined": {"images": {"Dog": 4}, "shots": "4", "seed": 1}}, "mined, shots must be a whole number"),
        (GOOD | {"mined": {"images": {"Dog": 4}, "shots": 4, "seed": 0.5}}, "mined, seed must be a whole number, not"),
        (changed("template", to="a {class}"), "template 'a {class}' must hold"),
        (changed("template", to="a {class} {concepts} {class}"), "must hold"),
        (changed("template", to="a {class} {concepts} {x}"), "must hold"),
        (changed("template", to="a {class} {concepts} }"), "must hold"),
    ],
)
def test_faults_are_named(tmp_path: Path, content: object, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(BankError, match=f"(?s){message}") as caught:
        load_bank(path)
    assert str(path) in str(caught.value)


def test_unknown_banks_and_files() -> None:
    with pytest.raises(FileNotFoundError, match=r"'derm7pts'. Did you mean 'derm7pt'"):
        load_bank("derm7pts")
    with pytest.raises(FileNotFoundError, match=r"no concept bank .*nowhere\.yaml"):
        load_bank("nowhere.yaml")


def test_for_classes_orders_renames_and_selects(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, GOOD)).for_classes(["dog", "Cat-Like"])
    assert {name: bank.texts(name) for name in bank.classes} == {
        "dog": ["floppy ears"],
        "Cat-Like": ["whiskers", "claws"],
    }
    assert list(bank.for_classes(["Cat Like"]).classes) == ["Cat Like"]


def test_a_mismatch_gives_both_sets_and_the_nearest_name(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, GOOD))
    with pytest.raises(ValueError, match=r"'dogs' \(nearest: 'Dog'\)") as caught:
        bank.for_classes(["dogs", "cat like"])
    text = str(caught.value)
    assert "classes of the dataset: dogs, cat like" in text
    assert "classes of the bank:    " in text
    assert str(bank.path) in text
    with pytest.raises(ValueError, match="the same name twice"):
        bank.for_classes(["Dog", "dog"])


ALIASES = {"cat_like": ["Kitty", "house-cat"], "Dog": ["hound", "hunde"]}


def test_a_class_is_found_by_its_name_then_by_an_alias(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, GOOD | {"aliases": ALIASES}))
    assert bank.aliases == {"cat_like": ("Kitty", "house-cat"), "Dog": ("hound", "hunde")}
    assert bank.match(["dog", "HOUSE_cat"]) == {"dog": "Dog", "HOUSE_cat": "cat_like"}
    asked = bank.for_classes(["hound", "cat like"])
    assert {name: asked.texts(name) for name in asked.classes} == {
        "hound": ["floppy ears"],
        "cat like": ["whiskers", "claws"],
    }
    assert asked.by_alias == {"hound": "Dog"}
    assert asked.facts() == {"name": "demo", "version": "2", "sha256": bank.sha256, "aliases": {"hound": "Dog"}}
    assert asked.summary().endswith("reviewed by A. Clinician; 'hound' is its 'Dog'")
    assert bank.for_classes(["Dog"]).by_alias == {}
    again = asked.for_classes(["Kitty", "hunde"])
    assert (list(again.classes), again.by_alias) == (["Kitty", "hunde"], {"Kitty": "cat like", "hunde": "Dog"})


def test_two_classes_that_are_one_class_of_the_bank(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, GOOD | {"aliases": ALIASES}))
    with pytest.raises(ValueError, match="'hound' and 'Dog' of the dataset are both 'Dog' in the bank"):
        bank.for_classes(["hound", "cat_like", "Dog"])


def test_a_mismatch_tells_the_aliases(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, GOOD | {"aliases": {"Dog": ["hound"]}}))
    with pytest.raises(ValueError, match=r"'hounds' \(nearest: 'hound'\), 'qqq'\.\n") as caught:
        bank.for_classes(["hounds", "qqq"])
    assert "classes of the bank:    Dog (or hound), cat_like\n" in str(caught.value)
    assert "aliases: {its class: [the dataset's name]}" in str(caught.value)


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ([], r"aliases must be a mapping with at least one entry, not \[\]"),
        ({"dog": ["hound"]}, "aliases: Unknown class 'dog'. Did you mean 'Dog'"),
        ({1: ["hound"]}, "aliases: Unknown class '1'"),
        ({"Dog": "hound"}, "aliases of 'Dog' must be a list, not 'hound'"),
        ({"Dog": [False]}, "aliases of 'Dog' must be a text"),
        ({"Dog": ["DOG"]}, r"aliases of 'Dog': \['Dog', 'DOG'\] holds a name twice"),
        ({"Dog": ["hound", " Hound"]}, "aliases of 'Dog': .* holds a name twice"),
        ({"Dog": ["Cat Like"]}, "aliases of 'Dog': 'Cat Like' is a name of the class 'cat_like' already"),
        ({"cat_like": ["pet"], "Dog": ["-pet"]}, "aliases of 'cat_like': 'pet' is a name of the class 'Dog' already"),
    ],
)
def test_faults_of_aliases_are_named(tmp_path: Path, aliases: object, message: str) -> None:
    path = write(tmp_path, GOOD | {"aliases": aliases})
    with pytest.raises(BankError, match=message) as caught:
        load_bank(path)
    assert str(path) in str(caught.value)
