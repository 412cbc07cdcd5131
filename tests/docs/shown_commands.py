"""The commands that README, CONTRIBUTING and docs/*.md show, as bash reads them, and a folder to type them in.

A block of commands is given to bash with functions in the place of programmes, which note what they were called with:
so loops, variables, quotes, comments and continued lines are bash's own.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMMES = ("xcoop", "bash", "python", "python3", "pip", "git", "hf", "source", "cd")
IN_TEXT = re.compile(rf"`((?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMMES)}) [^`\n]+)`")

# Each call is noted as its words, NULs between them, and an end. `xcoop path` answers: others are given its answer.
NOTE = r"""_note() { printf '%s\0' "$@" $'\x1e' >&3; [ "$1 ${2-}" != "xcoop path" ] || printf '%s\n' "$3"; }
command_not_found_handle() { _note "$@"; }
""" + "".join(f'{name}() {{ _note {name} "$@"; }}\n' for name in PROGRAMMES)


@dataclass(frozen=True)
class Command:
    """One call of a programme that a page shows; `in_text`: within a sentence, where arguments may be left out."""

    words: tuple[str, ...]
    in_text: bool = False

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of some languages, in their order."""
    return [text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind in languages]


def outside_of_blocks(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def called(code: str) -> list[tuple[str, ...]]:
    """The words of each call in a piece of bash."""
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1 1>&2\n{NOTE}{code}"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, f"{code}{done.stderr}"
    calls = done.stdout.split("\0\x1e\0")
    assert calls.pop() == "", code
    return [tuple(call.split("\0")) for call in calls]


@cache
def commands(page: Path) -> tuple[Command, ...]:
    """All commands of a page, each once."""
    found: dict[Command, None] = {}
    for block in blocks(page, "bash", "sh", "console"):
        found |= dict.fromkeys(map(Command, called(block)))
    for text in IN_TEXT.findall(outside_of_blocks(page)):
        found |= dict.fromkeys(Command(words, True) for words in called(text))
    return tuple(found)


def checkout(folder: Path) -> Path:
    """A folder with all of the repository but what runs leave, so that relative paths hold there and nothing is written
    into the repository."""
    folder.mkdir(parents=True)
    for path in REPOSITORY.iterdir():
        if path.name not in ("output", "data", "my_images", "drawn", ".git"):
            (folder / path.name).symlink_to(path)
    return folder
