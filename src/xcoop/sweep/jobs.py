"""One run of a sweep: what `train.py` is told, where its results go, and whether it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.results.record import read_run
from xcoop.utils.files import atomic_write_text
from xcoop.utils.reading import read_json

SCHEMA = 1
FINISHED, FOUND, BUSY, FAILED = "finished", "found", "busy", "failed"  # how an attempt at a job ends


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        words: the arguments of `train.py`, `--output-dir` among them.
        folder: where its results go; the same as `--output-dir`.
        title: its name in messages.
        group: backbone, dataset and input size; jobs of one group share what they load.
        after: the folder of a run that must be done first (the one whose weights are evaluated), if there is one.
    """

    words: tuple[str, ...]
    folder: Path
    title: str
    group: str
    after: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` takes back."""
        after = None if self.after is None else str(self.after)
        return {"words": list(self.words), "folder": str(self.folder), "title": self.title, "group": self.group,
                "after": after}  # fmt: skip

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Job:
        """The job that `as_json` wrote.

        Raises:
            ValueError: it is none; the message names what is wrong.
        """
        kinds = {"words": list, "folder": str, "title": str, "group": str}
        for key, kind in kinds.items():
            if not isinstance(plain, Mapping) or not isinstance(plain.get(key), kind):
                raise ValueError(f"this is no job, its {key!r} is missing or wrong: {plain!r}")
        after = plain.get("after")
        return cls(tuple(map(str, plain["words"])), Path(plain["folder"]), plain["title"], plain["group"],
                   Path(after) if after else None)  # fmt: skip

    def done(self) -> bool:
        """Whether its `results.json` is whole.

        Raises:
            ValueError: the record is damaged; the message names the file.
        """
        return read_run(self.folder) is not None

    def ready(self) -> bool:
        """Whether what it builds on is done."""
        return self.after is None or read_run(self.after) is not None

    @property
    def log(self) -> Path:
        """The run's log."""
        return self.folder / "log.txt"


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended.

    Attributes:
        state: FINISHED (by us, now), FOUND (it was done before), BUSY (another process is at it), FAILED.
        seconds: wall time.
        message: why it failed, or what is busy; a line or more.
        again: whether a failed run may be tried once more (not where the user has to change something first).
    """

    state: str
    seconds: float = 0.0
    message: str = ""
    again: bool = True


def write_jobs(path: Path, jobs: Iterable[Job]) -> None:
    """Writes a list of jobs for a worker, a launcher or a Slurm task."""
    text = json.dumps({"schema": SCHEMA, "jobs": [job.as_json() for job in jobs]}, indent=1)
    atomic_write_text(path, text + "\n")


def read_jobs(path: Path) -> list[Job]:
    """The jobs in a file of `write_jobs`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file; the message names it.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("jobs"), list):
        raise ValueError(f"{path} is no list of jobs (schema {SCHEMA}), as `xcoop sweep` writes it")
    try:
        return [Job.from_json(plain) for plain in content["jobs"]]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
