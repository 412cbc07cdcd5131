"""What is published about a dataset, and how its files are fetched and compared with that."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from xcoop.config.augmentation import KINDS
from xcoop.config.plugins import plugin_path
from xcoop.data.splits import SPLITS, WHOLE, Splits, per_class
from xcoop.utils.console import shown, to_paste, unknown
from xcoop.utils.download import DRIVE, Job, check, download
from xcoop.utils.files import atomic_write_text
from xcoop.utils.reading import read_yaml
from xcoop.utils.unpack import unpack

logger = logging.getLogger(__name__)

GROUPINGS = ("patient", "lesion", "case", "report", "none", "")  # what splits are kept apart by; "" is not stated
MAX_SIZE = 1 << 50  # bytes


class MissingDatasetError(FileNotFoundError):
    """A dataset that is not where it was looked for; the message says how to get it."""


def _text(value: Any) -> str:
    """A text without the blanks around it; line breaks stay within, and the first line keeps its indentation."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value.strip("\n") if "\n" in value.strip() else value.strip()


def _holding(meaning: str, holds: Callable[[Any], object]) -> BeforeValidator:
    def held(value: Any) -> Any:
        if not holds(value):
            raise ValueError(meaning)
        return value

    return BeforeValidator(held)


def _matching(pattern: str, meaning: str) -> BeforeValidator:
    return _holding(meaning, lambda value: isinstance(value, str) and re.fullmatch(pattern, value))


def _one_of(kind: str, options: Iterable[str]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("a text")
        if value not in options:
            raise PydanticCustomError("unknown", "{text}", {"text": unknown(kind, value, filter(None, options))})
        return value

    return BeforeValidator(check)


def _is_inner(value: Any) -> bool:
    """Whether a relative path with `/` stays below its root."""
    return isinstance(value, str) and not re.search(r"[\\:]", value) and not {"", ".", ".."} & set(value.split("/"))


BELOW = "a path below the data root, such as 'Name/file.zip'"
Text = Annotated[str, BeforeValidator(_text)]
Count = Annotated[int, _holding("a number of images", lambda value: type(value) is int and value >= 0)]
Counts = dict[str, dict[Annotated[str, _one_of("split", (*SPLITS, WHOLE))], dict[str, Count]]]
Reasons = dict[
    Annotated[str, _one_of("key", KINDS)],
    Annotated[str, _holding("a text", lambda value: isinstance(value, str) and value.strip())],
]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RemoteFile:
    """A file that anybody may download.

    Attributes:
        name: where it is kept, relative to the data root.
        size: in bytes; 0 if it is not published.
        unpack: the folder, relative to the data root, that an archive is unpacked into; None for a file that stays.
    """

    url: Annotated[str, _matching(r"https?://\S+|gdrive:[\w-]+", "an http(s) address or gdrive:<id>")]
    name: Annotated[str, _holding(BELOW, _is_inner)]
    size: Annotated[int, _holding("a number of bytes", lambda value: type(value) is int and 0 < value < MAX_SIZE)] = 0
    checksum: Annotated[str, _matching(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})?", "md5:<hex> or sha256:<hex>")] = ""
    unpack: Annotated[str | None, _holding(BELOW, lambda value: value == "." or _is_inner(value))] = None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class About:
    """The facts of one dataset; see `configs/datasets/about/*.yaml`.

    Attributes:
        layout: the expected files, drawn as a tree.
        phantom: the command that makes a phantom in its place; empty if there is none.
        counts: published number of images, by task, split (`all`: of the whole set) and class.
        files: what `xcoop data prepare` fetches, in order; none if nothing may be downloaded.
        request: what is to be done by hand; empty if nothing is.
        grouping: what is kept within one split, one of `GROUPINGS`.
        keeps_labels: kinds of augmentation that keep every label (see `xcoop.config.augmentation`), each with
            the reason.
        changes_labels: kinds that do not.
        caution: known leakage or label problems.
        positive: the class that is looked for, of sets of two.
        name: of the file.
    """

    title: Text
    homepage: Text
    licence: Text
    citation: Text
    layout: Text
    phantom: Text
    counts: Counts
    files: tuple[RemoteFile, ...] = ()
    request: Text = ""
    grouping: Annotated[str, _one_of("grouping", GROUPINGS)] = ""
    keeps_labels: Reasons = field(default_factory=dict)
    changes_labels: Reasons = field(default_factory=dict)
    caution: Text = ""
    positive: Text = ""
    name: str = ""


def about(name: str) -> About:
    """The facts of the dataset `name` (lower case, as its file); see `read_about`."""
    return read_about(plugin_path("configs", "datasets", "about", f"{name}.yaml"))


def read_about(path: Path) -> About:
    """The facts in a file; ValueError if a key is unknown or lacks, or a value is of another kind."""
    tree = read_yaml(path)
    keys = [key for key in About.__dataclass_fields__ if key != "name"]
    if isinstance(tree, dict) and "name" in tree:
        raise ValueError(f"{path}: {unknown('key', 'name', keys)}")
    try:
        return replace(TypeAdapter(About).validate_python(tree), name=path.stem)
    except ValidationError as error:
        raise ValueError(_mistake(str(path), error)) from None


def _mistake(where: str, error: ValidationError) -> str:
    """The first mistake with its place: `toys.yaml: files[0].size must be a number of bytes, not '12'`.

    An unknown key goes before others: it may be a required one misspelt.
    """
    first = min(error.errors(), key=lambda one: one["type"] != "unexpected_keyword_argument")
    kind, place, value = first["type"], first["loc"], first["input"]
    if place and place[-1] == "[key]":  # of a mapping: the key is what is wrong, so the place is the mapping
        place = place[:-2]
    elif kind in ("missing", "unexpected_keyword_argument"):
        place = place[:-1]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    where = f"{where}: {path}" if path else where
    if kind == "unexpected_keyword_argument":
        known = (RemoteFile if place else About).__dataclass_fields__
        return f"{where}: {unknown('key', str(first['loc'][-1]), known)}"
    if kind == "missing":
        lacking = [str(one["loc"][-1]) for one in error.errors() if one["type"] == kind and one["loc"][:-1] == place]
        return f"{where} lacks {', '.join(lacking)}"
    if kind == "unknown":
        return f"{where}: {first['msg']}"
    if kind == "dataclass_type":
        return f"{where} must hold keys and values, not {shown(value)}"
    if kind == "value_error":
        return f"{where} must be {first['ctx']['error']}, not {shown(value)}"
    meaning = {"tuple_type": "a list", "dict_type": "a mapping from names", "string_type": "a mapping from names"}
    return f"{where} must be {meaning[kind]}, not {shown(value)}"


def missing(facts: About, looked_for: Iterable[Path]) -> MissingDatasetError:
    """The error for a dataset that was not found: all that is needed to get it, in one message."""
    places = "\n".join(f"  {path}" for path in looked_for)
    layout = "\n".join(f"  {line}" for line in facts.layout.rstrip().splitlines())
    return MissingDatasetError(
        f"{facts.title} was not found. Looked for\n{places}\n"
        f"Set the data root (DATA=... for the scripts, --root, DATASET.ROOT) or name the place with DATASET.PATH.\n"
        f"{how_to_get(facts)}\nLicence: {facts.licence}\nCite: {facts.citation}\n"
        f"Expected layout:\n{layout}" + "".join(f"\n{line}" for line in phantom_instead(facts))
    )


def phantom_instead(facts: About) -> list[str]:
    """The command that draws a phantom in the place of a dataset; empty if there is none."""
    command = facts.phantom.replace("xcoop", to_paste("xcoop"), 1)
    return [f"A phantom in its place (drawn, not clinical): {command}"] if command else []


def how_to_get(facts: About) -> str:
    """Where it comes from, the command that fetches it, and what is to be done by hand; one line each."""
    lines = [f"Get it from: {facts.homepage}"]
    lines += [f"Or let it be fetched: {to_paste('xcoop', 'data', 'prepare', facts.name)}"] if facts.files else []
    lines += [f"By hand: {facts.request}"] if facts.request else []
    return "\n".join(lines)


def compare_counts(facts: About, task: str, splits: Splits) -> list[str]:
    """One line for each split whose numbers of images differ from the published ones.

    Of a set that is still undivided there is nothing to say of val and test.
    """
    found = {split: per_class(items) for split, items in splits if items or splits.divided}
    found[WHOLE] = per_class(splits.all())
    return [
        f"{split} has {_counted(found[split])}; published: {_counted(expected)}"
        for split, expected in facts.counts.get(task, {}).items()
        if split in found and found[split] != expected
    ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "no images"


def fetch_all(files: Iterable[RemoteFile], root: Path) -> list[Path]:
    """Fetches files in order, then unpacks those that are archives; see `fetch` and `xcoop.utils.unpack`.

    Archives with one folder are unpacked together, whole or not at all. They are kept.

    Returns:
        What there is now: the files that stay, and what was made by unpacking.
    """
    made: list[Path] = []
    archives: dict[str, list[Path]] = {}
    for file in files:
        path = fetch(file, root)
        if file.unpack is None:
            made.append(path)
        else:
            archives.setdefault(file.unpack, []).append(path)
    for folder, paths in archives.items():
        made += unpack(paths, root / folder)
        logger.info("%s may be deleted now", ", ".join(map(str, paths)))
    return made


def fetch(file: RemoteFile, root: Path) -> Path:
    """One file below the data root, downloaded if it is not there.

    Raises:
        ValueError: what came, or what lies there, is not what was published or recorded.
        ConnectionError: it cannot be downloaded; the message says where it can be put by hand.
        OSError: the disk is full or must not be written to.
    """
    target = root / file.name
    url = re.sub("^gdrive:", DRIVE, file.url)
    job = Job(url, target, file.size, file.checksum, f"Or get it by hand and put it at {target}")
    if target.is_file():
        try:
            found = check(target, job)
        except ValueError as error:
            raise ValueError(f"{error}. It is not overwritten: move it away to have it downloaded anew") from error
        logger.info("%s is there already", target)
    else:
        logger.info("downloading %s to %s", job.url, target)
        found = download(job)
    if file.checksum:
        return target
    # Nothing is published to compare with: the first machine's SHA-256 is written down for the others.
    record = target.with_name(f"{target.name}.sha256")
    if record.is_file():
        expected = record.read_text(encoding="utf-8").split()[:1]
        if expected != [found]:
            raise ValueError(f"{target} has the SHA-256 {found}, and {record} recorded {' '.join(expected) or 'none'}")
    else:
        logger.warning("no checksum of %s is published; its SHA-256 is recorded in %s", target.name, record)
        atomic_write_text(record, f"{found}  {target.name}\n")
    return target
