"""A user's own table of images: which of its columns tell image, label, split and patient, however they are spelt.

A header counts as a column of a kind if it matches a pattern of that kind once case, blanks and marks are left out
(`Patient ID`, `patient_id` and `PatientID` are one). The patterns were collected from the tables of public sets: ISIC,
HAM10000, PAD-UFES-20, Derm7pt, Fitzpatrick17k, NIH ChestX-ray14, CheXpert, MIMIC-CXR, PadChest, RSNA, VinDr, EyePACS,
APTOS, BreakHis, CBIS-DDSM, MedMNIST and others. What is not read is named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xcoop.concepts.bank import same_name
from xcoop.data.splits import Remark, shown_some
from xcoop.utils.console import DatasetError, escaped, is_plain, unknown
from xcoop.utils.images import is_image_name
from xcoop.utils.reading import Line, read_table

_PICTURE = (
    r"(?:image|img|picture|pic|photo|photograph|scan|xray|cxr|radiograph|slice|frame|tile|patch|dicom|dcm|png|jpe?g)"
)
_ID = r"(?:ids?|no|nr|num|numbers?|codes?|keys?|uid|uuid|identifier|index|idx|hash|name|instanceuid)"
_THING = r"(?:lesion|nodule|tumou?r|mass|wound|polyp|lump|group|eye|breast|knee|family)"
_VISIT = r"(?:case|specimen|biopsy|slide|wsi|study|exam|examination|visit|encounter|accession|series|session|video|clip|sequence|volume)"  # noqa: E501
PERSON = r"(?:patient|pat|subject|subj|participant|person|individual|volunteer|donor|animal|mouse)"
_ANONYMOUS = r"(?:anon|anonymi[sz]ed|deid|deidentified|pseudo|pseudonymi[sz]ed|unique|hospital|id)*"

# The patterns of each kind, the surest first: a column of the first pattern that any column matches is taken.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": (
        rf"(?:{_PICTURE}|file|full|abs|relative|rel|local)*paths?(?:to{_PICTURE}|tofile)?",
        rf"{_PICTURE}*(?:files?|filenames?|fname)|{_PICTURE}+names?",
        rf"{_PICTURE}+s?",
        rf"(?:{_PICTURE}+s?|file|isic|sop){_ID}+",
        r"(?:id|uid)(?:code)?|md5(?:hash)?",
        r"(?!.*(?:mask|seg|roi|crop|report|text|xml|json)).*(?:path|file(?:name)?|(?:image|img)(?:id|name)?)",
    ),
    "label": (
        r"(?:final|true|primary|main|gold|image|img|lesion|tumou?r|disease|target|class|clinical|dx|diagnosis|finding)*"
        r"(?:label|class(?:name)?|category|diagnosis|diagnoses|diagnostic|diag|dx|target|groundtruth|gt|truth|findings?"
        r"|condition|disease|pathology)(?:s|es)?(?:names?|labels?|text|ids?|idx|index|code|category|class|group)?\d*",
        r"(?:lesion|tumou?r|cancer|disease|cell|tissue|retinopathy|dr|isup|kl|birads)*"
        r"(?:type|grade|level|severity|stage|score|outcome|result|annotation|benignmalignant|malignancy|malignant)|y",
    ),
    "split": (
        r"(?:data|official|default|original|train|trainval|val|valid|test)*(?:split|subset|partition|(?<!data)set)"
        r"(?:name|id|type|label)?",
        r"dataset(?:name|type)?|(?:cv|k)?folds?(?:id|name|no|num|number)?|phase|usage|purpose",
    ),
    "patient": (
        rf"{_ANONYMOUS}{PERSON}s?{_ID}*|.*(?:patient|subject|participant){_ID}+|pid|ptid|mrn",
        rf".*{_THING}{_ID}+|{_ANONYMOUS}{_VISIT}{_ID}*|.*(?:case|study|exam|slide){_ID}+",
    ),
}
EXAMPLES = {  # of each kind, some that are found
    "path": ("path", "image", "filename", "image_id", "Image Index", "isic_id", "id_code"),
    "label": ("label", "class", "diagnosis", "dx", "category", "Finding Labels", "grade"),
    "split": ("split", "subset", "partition", "Dataset_type", "fold"),
    "patient": ("patient", "PatientID", "subject_id", "MRN", "lesion_id", "case", "study"),
}
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "tune", "tuning"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
ZERO, ONE = ("", "0", "0.0"), ("1", "1.0")
YES_NO = {*ZERO, *ONE, "true", "false", "yes", "no", "t", "f", "y", "n"}
MISSING = {"nan", "na", "n/a", "#n/a", "<na>", "null"}  # how programmes write an empty cell
SEVERAL = "|;,/+&"  # what parts the labels of an image that has several
MAX_NAMED = 5


@dataclass(frozen=True)
class Row:
    """One image."""

    path: str  # relative to the folder, with `/`
    label: str
    split: str = ""  # train, val or test; empty if none is stated
    patient: str = ""
    line: int = 0  # of the table, from 1; 0 where there is no table


def split_of(word: str) -> str:
    """`train`, `val` or `test`, if a word of a table or the name of a directory means one; else empty."""
    key = re.sub(r"(?<=.)(?:set|split|data|images)$", "", _squeezed(word))
    return SPLIT_WORDS.get(key, "")


def read_rows(table: Path, classes: Sequence[str] = ()) -> tuple[list[Row], list[Remark]]:
    """The rows of a table, and what has to be said of its columns.

    If `classes` are stated, a column that holds just these is the label, labels that look like lists are taken as they
    are, and of columns of 0 and 1 only those of these names are labels.

    Raises:
        DatasetError: a column is missing, or more than one may be meant; a row without label, with a path that leads
            out, or an unknown split; or images with several labels.
    """
    own = Table(table, classes)
    columns = {"path": own.only("path", _matching("path", own.header)), "label": own.label()}
    columns |= {"split": own.split(), "patient": own.patient()}
    used = [name for name in columns.values() if name]
    if not columns["path"]:
        raise own.lacks("path")
    if twice := [name for name in used if own.header.count(name) > 1]:
        raise DatasetError(f"{table}: several columns are called {twice[0]!r}: remove or rename all but one")
    coded = [] if columns["label"] else own.zero_one(used)
    if not columns["label"] and len(coded) < 2:
        if empty := _matching("label", own.header):
            raise DatasetError(f"{table}: the column {empty[0]!r} is empty in all of the {len(own.lines)} rows")
        raise own.lacks("label")
    labels = [own.one_held(line, coded) if coded else line.cells[columns["label"]] for line in own.lines]
    if not classes:
        _refuse_lists(table, labels, own.lines)
    # `['normal']`, a list of one, is that one.
    lists = [None if label in classes else re.fullmatch(r"""\[\s*(['"]?)(.*?)\1\s*\]""", label) for label in labels]
    labels = [found[2] if found else label for label, found in zip(labels, lists, strict=True)]
    rows = [own.row(columns, line, label) for line, label in zip(own.lines, labels, strict=True)]
    for column in ("split", "patient"):
        lacking = [row.line for row in rows if not getattr(row, column)]
        if lacking and len(lacking) < len(rows):
            raise DatasetError(
                f"{table}: {len(lacking)} of {len(rows)} rows have no {column}, the first in line {lacking[0]}"
            )
    left = [repr(name) if name else "one without a name" for name in own.header if name not in {*used, *coded}]
    roles = {"image" if role == "path" else role: name for role, name in columns.items() if name}
    told = ", ".join(f"{role} from {name!r}" for role, name in roles.items())
    told += f", label from the columns of 0 and 1 ({', '.join(coded)})" if coded else ""
    unread = f"; columns left unread: {', '.join(left)}" if left else ""
    return rows, [*own.remarks, Remark(f"{table.name}: read {told}{unread}")]


class Table:
    """A table whose columns are asked for what they mean."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path, self.classes = path, classes
        self.remarks: list[Remark] = []
        self.header, lines = read_table(path)
        missing = MISSING - {name.casefold() for name in classes}
        self.lines = [
            Line(line.number, {name: "" if cell.casefold() in missing else cell for name, cell in line.cells.items()})
            for line in lines
        ]
        self._values = {name: {line.cells[name] for line in self.lines} for name in self.header}
        self.filled = [name for name in self.header if self._values[name] - {""}]  # columns that are not empty

    def names_of_images(self) -> tuple[list[str], bool]:
        """What the column of paths holds, if there is one, and whether another tells labels, splits or patients."""
        paths = _matching("path", self.filled)
        others = [name for role in ("label", "split", "patient") for name in _matching(role, self.filled)]
        names = [line.cells[paths[0]] for line in self.lines] if paths else []
        return names, bool(set(others) - set(paths)) or len(self.zero_one(paths)) > 1

    def only(self, role: str, found: Sequence[str], hint: str = "") -> str:
        """The one of these columns, or ""."""
        if len(found) > 1:
            names = " and ".join(map(repr, found))
            told = f"the columns {names} both tell the {role}: remove or rename all but one{hint}"
            raise DatasetError(f"{self.path}: {told}")
        return found[0] if found else ""

    def lacks(self, role: str) -> DatasetError:
        """The error for a column that is needed."""
        usual = " or ".join(map(repr, EXAMPLES[role][:4]))
        hint = ""
        if any(map(is_image_name, self.header)):
            hint = "; its first line names an image: put a line with the names of the columns above it, as path,label"
        return DatasetError(f"{self.path} has no column {usual}; it has {list(self.header)}{hint}")

    def label(self) -> str:
        """The column that holds the stated classes; else the surest by name, of a number and a name the latter.

        "" if that is one of several columns of 0 and 1 of which exactly one is 1 in each row: they tell it together.
        """
        values = self._values
        coded = self.zero_one(())
        one_held = all(sum(line.cells[name] in ONE for name in coded) == 1 for line in self.lines)
        if len(coded) > 1 and one_held and set(coded) & set(_matching("label", self.filled)):
            return ""
        called = [[n for n in self.filled if re.fullmatch(pattern, _squeezed(n))] for pattern in COLUMNS["label"]]
        found: list[str] = []
        if wanted := set(map(same_name, self.classes)):
            holding = (
                [n for n in names if set(map(same_name, values[n])) == wanted] for names in (*called, self.filled)
            )
            found = next(filter(None, holding), [])
        found = found or _matching("label", self.filled)
        if found and all(self._nests(found[0], n) and self._nests(n, found[0]) for n in found[1:]):
            words = [n for n in found if any(re.search(r"[^\d.]", value) for value in values[n])]
            return (words or found)[0]
        few = [name for names in called for name in names if len(values[name]) <= 2 * MAX_NAMED]
        told = "; ".join(f"{name!r} holds {', '.join(map(repr, sorted(values[name])))}" for name in few)
        return self.only("label", found, f", or state the classes of the one that is meant: DATASET.CLASSES ({told})")

    def patient(self) -> str:
        """What keeps images together: the patient; else the largest of lesion, case, ... that holds the others."""
        found = _matching("patient", self.filled)
        largest = [name for name in found if all(self._nests(other, name) for other in found)]
        return largest[0] if largest else self.only("patient", found)

    def _nests(self, inner: str, outer: str) -> bool:
        """Whether all rows that share a value of `inner` share one of `outer`, too."""
        of: dict[str, str] = {}
        return all(of.setdefault(line.cells[inner], line.cells[outer]) == line.cells[outer] for line in self.lines)

    def split(self) -> str:
        """A column that is called a split must hold splits; a fold or dataset that holds none is left, with a word."""
        name = self.only("split", _matching("split", self.filled))
        flags = [n for n in self.filled if split_of(re.sub("^(?:is|in|for)", "", _squeezed(n)))]
        flags = [n for n in flags if {value.casefold() for value in self._values[n]} <= YES_NO]
        if flags and not name:
            raise DatasetError(
                f"{self.path}: {', '.join(map(repr, flags))} seem to tell the split by yes and no: write it as one "
                "column 'split' of train, val and test, or remove them"
            )
        sure = re.fullmatch(COLUMNS["split"][0], _squeezed(name))
        if name and not sure and not any(map(split_of, self._values[name])):
            values = shown_some(map(repr, sorted(self._values[name])), MAX_NAMED)
            text = f"the column {name!r} tells no split: its values are {values}, not train, val or test"
            self.remarks.append(Remark(f"{self.path.name}: {text}", True))
            return ""
        return name

    def zero_one(self, used: Sequence[str]) -> list[str]:
        """The columns that say of each image whether it is of a class: 1, 0 or -1 (uncertain), or nothing."""
        wanted = {same_name(name) for name in self.classes}
        found = [name for name in self.filled if name not in used and (not wanted or same_name(name) in wanted)]
        marks = {*ZERO, *ONE, "-1", "-1.0"}
        return [name for name in found if self._values[name] <= marks and self._values[name] & set(ONE)]

    def one_held(self, line: Line, coded: Sequence[str]) -> str:
        """The one column of 0 and 1 that holds 1."""
        held = [name for name in coded if line.cells[name] in ONE]
        unsure = [name for name in coded if line.cells[name] not in (*ONE, *ZERO)]
        if len(held) == 1 and not unsure:
            return held[0]
        what = f"{' and '.join(map(repr, held))} are 1" if len(held) > 1 else "none is 1"
        what = f"{unsure[0]!r} is {line.cells[unsure[0]]}" if unsure else what
        raise DatasetError(
            f"{self.path}, line {line.number}: no column is the label, and of the columns of 0 and 1 "
            f"({', '.join(coded)}) {what}. An image must be of exactly one class: sets with several labels an image "
            "are not for this programme. If some of these columns are no classes, name those that are with "
            "DATASET.CLASSES"
        )

    def row(self, columns: Mapping[str, str], line: Line, label: str) -> Row:
        """One image; DatasetError if its path leads out, or it has no label, an unknown split or a strange name."""
        cell = {role: line.cells[name] if name else "" for role, name in columns.items()}
        where = f"{self.path}, line {line.number}"
        for role, text in (*cell.items(), ("label", label)):
            if not is_plain(text):
                raise DatasetError(f"{where}: the {role} '{escaped(text)}' holds control characters: write it without")
        path, word = cell["path"].replace("\\", "/"), cell["split"]
        if path.startswith(own := f"{self.path.parent.as_posix()}/"):
            path = path.removeprefix(own)
        if not path or re.match(r"/|[A-Za-z]:", path) or ".." in path.split("/"):
            name = path.rpartition("/")[2]
            hint = f"; write it from there, or {name!r} alone, where one image has that name" if name else ""
            raise DatasetError(f"{where}: {cell['path']!r} is no path below the folder of the table{hint}")
        if not label:
            raise DatasetError(
                f"{where}: {path} has no label (NaN, NA, null count as none, unless DATASET.CLASSES names them)"
            )
        if word and not split_of(word):
            raise DatasetError(f"{where}: {unknown('split', word, SPLIT_WORDS)} (column {columns['split']!r})")
        return Row(path, label, split_of(word), cell["patient"], line.number)


def _squeezed(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _matching(role: str, header: Sequence[str]) -> list[str]:
    """The columns that match the surest of the patterns that any column matches."""
    for pattern in COLUMNS[role]:
        if found := [name for name in header if re.fullmatch(pattern, _squeezed(name))]:
            return found
    return []


def _refuse_lists(table: Path, labels: Sequence[str], lines: Sequence[Line]) -> None:
    """DatasetError if labels look like lists, as those of sets with several labels an image do.

    `|` and `;` part labels wherever they stand; the other marks, which names may hold, where a part is a label by
    itself or each part stands in several combinations.
    """
    different = set(labels)
    for mark in SEVERAL:
        parts = {
            label: [part.strip(" '\"[](){}") for part in label.strip(" '\"[](){}").split(mark)] for label in different
        }
        lists = {label: own for label, own in parts.items() if len(own) > 1 and all(own)}
        within = defaultdict(set)
        for label, own in lists.items():
            for part in own:
                within[same_name(part)].add(label)
        alone = {same_name(own[0]) for own in parts.values() if len(own) == 1}
        bracketed = any(label[:1] in "[({" and label[-1:] in "])}" for label in lists)
        recombined = len(lists) > 2 and all(len(holders) > 1 for holders in within.values())
        if lists and (mark in "|;" or bracketed or alone & within.keys() or recombined):
            number = next(line.number for line, label in zip(lines, labels, strict=True) if label in lists)
            examples = shown_some(map(repr, sorted(lists)), MAX_NAMED)
            raise DatasetError(
                f"{table}, line {number}: images with several labels: {sum(label in lists for label in labels)} of "
                f"{len(labels)} rows have labels such as {examples}. Sets with several labels an image are not for "
                "this programme: leave one label for each image. If these are the names of classes, name all classes, "
                f'in the order of their labels: DATASET.CLASSES "{sorted(different)[: 2 * MAX_NAMED]}"'
            )
