"""Elicits a concept bank from a language model: asks, keeps the answers, lets them vote, and writes the bank.

Nothing that was answered is asked twice: the raw answers lie beside the bank in `<bank>.answers.jsonl`, the query in
the first line and one answer in each other, and the same answers give the same bank, without any model. Who is asked,
and how, stands in `chat`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from xcoop.concepts.bank import ConceptBank, Elicited, same_name, save_bank
from xcoop.concepts.chat import Client, ElicitError
from xcoop.concepts.sentences import plain_template, words_around_class
from xcoop.concepts.words import leaks, nonvisual, normal, vocabulary
from xcoop.utils.files import atomic_write_text, held, unguarded
from xcoop.utils.reading import MOST_JSON, parse_json, read_bytes

logger = logging.getLogger(__name__)

MOST_CLASSES = 12  # a query; long answers are cut off
LONGEST_FINDING = 80  # characters
HEAD = "# Elicited from a language model (`elicited` says which, and how). No clinician has reviewed it.\n"
PROMPT = """\
You describe what can be seen in medical images. The images are of this kind: {picture}.
The classes of the data set are: {known}.

For each of these classes, list {concepts} visual findings that speak for it rather than for the other classes: {asked}.

Each finding must be
- visible in an image of this kind, so that a reader could point at it,
- a noun phrase of two to five words, in the terms of the specialty,
- without the name of a diagnosis, and without symptoms, causes, treatment, age, sex, or how frequent anything is.

Answer with one JSON object and nothing else: each of these class names, spelt as above, with a list of texts.
{{{example}: ["finding", "finding"], ...}}
"""


class Query(BaseModel):
    """What a bank is elicited for, and from whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    dataset: str  # registered name
    classes: tuple[str, ...]  # in label order
    template: str  # of the bank's sentences
    picture: str  # what the images are, e.g. "a dermoscopic photo"
    model: str  # as the server knows it
    host: str  # of the server
    concepts: int  # to be named a class

    def prompt(self, classes: Sequence[str] = ()) -> str:
        """The text that is sent; it asks for all classes, or for some of them."""
        asked = [f'"{name}"' for name in classes or self.classes]
        known = ", ".join(f'"{name}"' for name in self.classes)
        return PROMPT.format(
            picture=self.picture, known=known, concepts=self.concepts, asked=", ".join(asked), example=asked[0]
        )


class Answer(BaseModel):
    """One raw answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    sample: int  # which of the samples, from 1
    classes: tuple[str, ...]  # that were asked for
    text: str  # as it came
    finish: str  # why the model stopped, in the server's words
    served: str  # the model that the server says it used
    time: str  # UTC, ISO form


def picture_of(template: str) -> str:
    """What a bank's template says of its images, e.g. `a skin photo` in `a skin photo of a {class}, ...`."""
    return re.sub(r"( of)?( a| an| the)?$", "", words_around_class(plain_template(template)))


# The answers beside a bank.


@dataclass
class Store:
    """A file of answers, in the order in which they came."""

    path: Path
    query: Query
    answers: list[Answer] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Adds an answer; the file is whole at any time."""
        self.answers.append(answer)
        lines = [self.query.model_dump_json(), *(answer.model_dump_json() for answer in self.answers)]
        atomic_write_text(self.path, "".join(f"{line}\n" for line in lines))


def answers_path(bank: Path) -> Path:
    """Where the answers of a bank lie."""
    return bank.with_suffix(".answers.jsonl")


def read_store(path: Path) -> Store:
    """The answers of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ElicitError: it is no file of answers; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no answers {path}; they are written beside a bank when it is elicited")
    read: list[Any] = []
    try:
        for line in read_bytes(path, MOST_JSON).splitlines() or [b""]:
            read.append((Answer if read else Query).model_validate_json(line))
    except ValidationError:
        place = f"{path}, line {len(read) + 1}"
        raise ElicitError(f"{place}: not a line of a file of answers; remove it, and --resume asks again") from None
    return Store(path, read[0], read[1:])


@contextmanager
def open_store(path: Path, query: Query, resume: bool) -> Iterator[Store]:
    """The file of answers, to be added to; nobody else adds to it meanwhile. The first answer makes it.

    Raises:
        ElicitError: the file holds answers and is not to be resumed, belongs to another query, or is in use; nothing
            is changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}.asking"), wait=False) as taken:
        if taken is False:
            raise ElicitError(f"{path} is in use by another process")
        if warning := unguarded(path.parent):
            logger.warning("%s", warning)
        if not path.exists():
            yield Store(path, query)
            return
        if not resume:
            raise ElicitError(
                f"{path} holds answers: --resume goes on, --rebuild makes the bank; or name another --out"
            )
        store = read_store(path)
        old, new = store.query.model_dump(), query.model_dump()
        if other := [f"{key} {old[key]!r} there, {new[key]!r} now" for key in new if old[key] != new[key]]:
            raise ElicitError(f"{path} belongs to another query ({'; '.join(other)}); name another --out")
        yield store


def read_answer(text: str, classes: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """What an answer says of the classes that were asked for, and what is wrong with it.

    Args:
        text: a JSON object with a list of texts a class, alone, in a Markdown fence, or among other words.
        classes: that were asked for.

    Returns:
        Per class, spelt as it was asked for, at least one finding; and remarks, each once.
    """
    text, faults = re.sub(r"<think(ing)?>.*?</think(ing)?>", "", text, flags=re.DOTALL).strip(), []
    if not text:
        return {}, ["empty answer"]
    if fence := re.search(r"```[\w-]*\n(.*?)(?:```|\Z)", text, re.DOTALL):
        text = fence[1].strip()
        faults.append("Markdown fence")
    start, end = text.find("{"), text.rfind("}") + 1
    if start < 0:
        return {}, [*faults, "no JSON object"]
    try:
        content = parse_json(text[start:end], "the answer")
    except ValueError:
        return {}, [*faults, "truncated or malformed JSON"]
    known = {same_name(name): name for name in classes}
    findings: dict[str, list[str]] = {}
    for name, entries in content.items():
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            faults.append("wrong schema")
        elif same_name(name) not in known:
            faults.append("extra classes")
        elif texts := list(filter(None, map(_finding, entries))):
            findings.setdefault(known[same_name(name)], []).extend(texts)
        else:
            faults.append("empty list")
    if len(findings) < len(known):
        faults.append("missing classes")
    return findings, list(dict.fromkeys(faults))


def _finding(entry: str) -> str:
    """A finding without list marks and final punctuation; "" if it is none."""
    text = " ".join(entry.split()).strip(" .,;:-*\u2022")
    return text if len(text) <= LONGEST_FINDING and text.isprintable() and not set("{}") & set(text) else ""


def findings(store: Store, sample: int) -> dict[str, list[str]]:
    """Per class the findings of one sample; of several answers the first that is of use counts."""
    found: dict[str, list[str]] = {}
    for answer in store.answers:
        if answer.sample == sample:
            found = read_answer(answer.text, answer.classes)[0] | found
    return found


@dataclass
class Tally:
    """What happened: requests, and faults by kind; samples of which classes remained without findings."""

    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    given_up: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)


def ask_all(client: Client, store: Store, samples: int, tries: int, tally: Tally) -> None:
    """Asks for every class `samples` times, but for what the store has already; each answer goes into the store.

    Args:
        client: who is asked.
        store: knows the query.
        samples: usable answers wanted of each class.
        tries: answers until one is of use, at most.
        tally: what is counted in; it holds when an error ends it, too.

    Raises:
        ElicitError: the server refuses, or cannot be reached.
    """
    every = store.query.classes
    batches = [every[i : i + MOST_CLASSES] for i in range(0, len(every), MOST_CLASSES)]
    for sample in range(1, samples + 1):
        for batch in batches:
            missing = _missing(store, sample, batch)
            for _ in range(tries):
                if not missing:
                    break
                tally.requests += 1
                if (reply := client.ask(store.query.prompt(missing))) is None:
                    tally.faults["not a chat completion"] += 1
                    continue
                text, finish, served = reply
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                store.add(Answer(sample=sample, classes=missing, text=text, finish=finish, served=served, time=now))
                tally.faults.update(read_answer(text, missing)[1])
                missing = _missing(store, sample, batch)
            if missing:
                tally.given_up.append((sample, missing))


def _missing(store: Store, sample: int, batch: Sequence[str]) -> tuple[str, ...]:
    found = findings(store, sample)
    return tuple(name for name in batch if name not in found)


# Votes: which findings a class gets, in which words, and which are dropped and why.

Meaning = tuple[str, frozenset[str]]
"""The head of a finding, and the words that qualify it."""


@dataclass(frozen=True)
class Elected:
    """A finding that enough answers name, in the words that most of them use."""

    text: str
    votes: int
    answers: int


def meaning(text: str) -> Meaning:
    """What is compared of a finding: its head and the set of its other words, with one word for all of a meaning.

    "Irregular blood vessels" and "atypical vessel" are one; so are "network of pigment" and "pigment network".
    """
    left, words = normal(text), list[str]()
    while left:
        match = next((one for one in _same() if left[: len(one[0])] == one[0]), (left[:1], list(left[:1])))
        words += match[1]
        left = left[len(match[0]) :]
    joints = vocabulary()["joints"]
    joint = next((i for i, word in enumerate(words) if word in joints), 0)
    head = words[joint - 1] if words else ""  # the last word, if no joint stands behind another one
    return head, frozenset(words) - {head, *joints}


@cache
def _same() -> list[tuple[tuple[str, ...], list[str]]]:
    """Phrases, longest first, and the words that are compared in their place: none for what says nothing of its own."""
    same = [(normal(words), ["-".join(normal(line[0]))]) for line in vocabulary()["same"] for words in line]
    fillers: list[tuple[tuple[str, ...], list[str]]] = [(normal(words), []) for words in vocabulary()["fillers"]]
    return sorted(same, key=lambda one: -len(one[0])) + sorted(fillers, key=lambda one: -len(one[0]))


def elect(
    answers: Mapping[str, Sequence[Sequence[str]]], template: str, threshold: float, most: int
) -> tuple[dict[str, list[Elected]], list[tuple[str, str, str]]]:
    """The findings of each class, those with most votes first, and what was dropped.

    An answer has one vote a finding, however often it words it. Findings that no image shows, that name a
    diagnosis, or that every class has are dropped.

    Args:
        answers: per class the findings of each answer.
        template: of the bank; it says of which kind the images are.
        threshold: the share of a class's answers that must name a finding, in (0, 1].
        most: findings a class.

    Returns:
        Per class what was elected; and class, text and reason of each finding that was dropped.
    """
    dropped: list[tuple[str, str, str]] = []
    elected: dict[str, dict[Meaning, Elected]] = {}
    for classname, lists in answers.items():
        wordings: dict[Meaning, Counter[str]] = {}
        for texts in lists:
            named: dict[Meaning, str] = {}
            for text in texts:
                by_chance = re.match("[A-Z][a-z]", text)  # "Blue veil", not "B lines" or "CT sign"
                named.setdefault(meaning(text), text[0].lower() + text[1:] if by_chance else text)
            for found, text in named.items():
                wordings.setdefault(found, Counter())[text] += 1
        elected[classname] = {}
        for found, words in wordings.items():
            text = min(words, key=lambda text: (-words[text], len(text)))  # what most say; of equals the shortest
            if not found[0]:
                continue
            if unseen := nonvisual(text, template):
                dropped.append((classname, text, f"not visible: {', '.join(unseen)}"))
            elif said := leaks(text, {name: (name,) for name in answers}):
                dropped.append((classname, text, f"names the diagnosis {', '.join(said[0].classes)}"))
            elif words.total() >= threshold * len(lists):
                elected[classname][found] = Elected(text, words.total(), len(lists))
    own = list(elected.values())
    for found in [found for found in own[0] if len(own) > 1 and all(found in other for other in own)]:
        dropped += [(name, own.pop(found).text, "every class has it") for name, own in elected.items()]
    ranked = {name: sorted(own.values(), key=lambda one: -one.votes) for name, own in elected.items()}
    return {name: own[:most] for name, own in ranked.items()}, dropped


# The bank.


def build(store: Store, threshold: float, most: int) -> tuple[dict[str, list[Elected]], list[tuple[str, str, str]]]:
    """The findings that enough answers agree on, and those that were dropped; see `elect`.

    Raises:
        ElicitError: a class has no usable answer, or none that enough answers agree on; all such classes are named.
    """
    found = [findings(store, sample) for sample in sorted({answer.sample for answer in store.answers})]
    answers = {name: [one[name] for one in found if name in one] for name in store.query.classes}
    if silent := [name for name, lists in answers.items() if not lists]:
        raise ElicitError(
            f"no usable answer for {', '.join(map(repr, silent))}; no bank is written, the answers are in {store.path}"
        )
    chosen, dropped = elect(answers, store.query.template, threshold, most)
    if empty := [name for name, own in chosen.items() if not own]:
        raise ElicitError(
            f"no finding for {', '.join(map(repr, empty))} is visual and in {100 * threshold:g} % of the answers; no "
            f"bank is written. --rebuild with a lower --threshold counts the answers in {store.path} again"
        )
    return chosen, dropped


def write_bank(path: Path, store: Store, chosen: Mapping[str, Sequence[Elected]], threshold: float) -> ConceptBank:
    """Writes the bank that `build` chose with this threshold, whole and loadable, or not at all."""
    query, prompt = store.query, store.query.prompt()
    date = max(answer.time for answer in store.answers)[:10]
    samples = max(answer.sample for answer in store.answers)
    digest = hashlib.sha256(prompt.encode()).hexdigest()

    def key(one: Elected) -> str:
        return f"elicited-{one.votes}-of-{one.answers}"

    every = sorted((one for own in chosen.values() for one in own), key=lambda one: (-one.votes, one.answers))
    content = {
        "name": path.stem,
        "version": "1",
        "dataset": query.dataset,
        "template": query.template,
        "reviewed_by": [],
        "elicited": asdict(Elicited(query.model, query.host, date, samples, threshold, digest, prompt)),
        "sources": {
            key(one): f"Elicited from {query.model} on {date}, {one.votes} of {one.answers} answers; not reviewed."
            for one in every
        },
        "classes": {
            classname: [{"concept": one.text, "source": key(one), "votes": one.votes} for one in own]
            for classname, own in chosen.items()
        },
    }
    return save_bank(path, HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=116))
