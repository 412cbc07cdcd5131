"""What is said to the user: messages, the names that were probably meant, and how a command ends."""

from __future__ import annotations

import argparse
import difflib
import os
import pickle
import re
import reprlib
import shlex
import shutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

SHOWN = 100  # characters of a value in a message; who reads it has the file
_LIMITS = reprlib.Repr()
_LIMITS.maxstring = _LIMITS.maxother = _LIMITS.maxlong = SHOWN
_LIMITS.maxlevel = 4


def cut(text: str, most: int = SHOWN) -> str:
    """A text, or as many characters of it as a message should have."""
    return text if len(text) <= most else f"{text[:most]}..."


def shown(value: object) -> str:
    """A value as a message shows it, however long, deep or self-referring it is: `repr`, cut."""
    if isinstance(value, str):  # `reprlib` would leave out the middle of a text
        return repr(cut(value))
    try:
        return cut(_LIMITS.repr(value))
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"


def closest(word: str, options: Iterable[str]) -> str | None:
    """The option nearest to `word` (case does not count), or None if nothing is near."""
    if len(word) > SHOWN:  # comparing takes time in its square
        return None
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[near[0]] if near else None


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """The message for an unknown name: what was asked, the nearest, and all that there are."""
    known = sorted(options)
    return f"Unknown {kind} {shown(word)}.{names_like(word, known)} Known: {', '.join(known) or 'none'}."


def names_like(word: str, options: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    near = closest(word, options)
    return f" Did you mean {near!r}?" if near else ""


# Control characters, halves of surrogate pairs (how Python spells bytes that are no UTF-8), and what ends or turns a
# line: none of them belongs in a name, and some act on a terminal.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_plain(name: str) -> bool:
    """Whether a name can be written everywhere: as UTF-8, on one line, on a terminal."""
    return not _UNSAFE.search(name)


def escaped(text: str, keep: str = "") -> str:
    r"""A text with what is not plain, but for the characters of `keep`, spelt as `\x1b`; non-UTF-8 bytes, too."""

    def spelt(match: re.Match[str]) -> str:
        code = ord(match[0])
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # how Python reads such a byte of a file name
        return match[0] if match[0] in keep else ascii(chr(byte))[1:-1]

    return _UNSAFE.sub(spelt, text)


LONGEST_PATH = 4096  # characters, as Linux has it
LONGEST_MESSAGE = 10_000  # characters: all known names, or a dataset's layout, but never a whole file
USER_ERROR = 2  # as argparse's own
FAILED = 1
BUSY = 75  # EX_TEMPFAIL of sysexits.h: another process is at it
INTERRUPTED = 130

# What the library raises, with a message that names the thing, when its input is wrong.
EXPECTED = (OSError, ValueError, LookupError, FloatingPointError, ImportError, pickle.UnpicklingError, MemoryError)


# What torch raises a RuntimeError for: on a CPU, and on a GPU.
NO_MEMORY = re.compile(r"[Tt]ried to allocate [\d.]+ \w+|CUDA out of memory|not enough memory")
INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class UserError(Exception):
    """Something that the user can put right; the message says what and how."""

    code = USER_ERROR


class DatasetError(ValueError):
    """A dataset whose files contradict its layout; the message names the file and what would be right."""


class BusyError(UserError):
    """Another process holds what is needed."""

    code = BUSY


class Parser(argparse.ArgumentParser):
    """An argument parser whose answer to an unknown option is the one that was probably meant.

    Options are never abbreviated: `--seed 3` must not be taken for `--seeds 3`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes what argparse's own takes."""
        if sys.version_info >= (3, 14):
            kwargs["suggest_on_error"] = False  # `error` makes its own suggestion, on every Python the same
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's own; the words are kept, so that every error can say which option was probably meant."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the programme with the message, a hint, and exit code 2."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        words = [*self._given, *message.partition("unrecognized arguments: ")[2].split()]
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        hints = {word: closest(word, options) for word in given if word not in options}
        hint = "".join(f"; did you mean {near} instead of {word}?" for word, near in hints.items() if near)
        if chosen := INVALID_CHOICE.search(message):
            near = closest(chosen[1], re.findall(r"[\w-]+", chosen[2]))
            hint = f"; did you mean {near}?" if near else ""
        super().error(escaped(cut(message, LONGEST_MESSAGE) + hint, keep="\n"))


def to_paste(programme: str, *words: str) -> str:
    """A command as it works in the shell that this was started from, whether or not the environment is active there.

    Args:
        programme: one of this environment's that is a module, too, as "xcoop" or "pip".
        words: its arguments; they are quoted.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    installed, found = shutil.which(programme, path=str(scripts)), shutil.which(programme)
    python = Path(sys.executable)
    if installed and found and os.path.samefile(installed, found):
        call = [programme]
    elif installed:
        call = [_from_here(Path(installed))]
    else:
        call = [_from_here(python), "-m", programme]
    return shlex.join([*call, *words])


def _from_here(path: Path) -> str:
    """The path as a shell in the current folder takes it for a programme."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path.parent != here else str(path)


def say(*lines: str) -> None:
    """Writes lines to the standard output at once."""
    sys.stdout.write(escaped("\n".join(lines), keep="\n\t") + "\n")
    sys.stdout.flush()


def complain(message: str) -> None:
    """Writes one line to the standard error."""
    sys.stdout.flush()
    sys.stderr.write(escaped(f"xcoop: {message}\n", keep="\n\t"))
    sys.stderr.flush()


def describe(error: BaseException) -> str:
    """An exception's message without the quotes that KeyError adds."""
    if isinstance(error, RuntimeError) and (told := NO_MEMORY.search(str(error))):
        return f"out of memory ({told[0]}): smaller batches, or a larger machine"
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, OSError) and len(str(error.filename)) > LONGEST_PATH:
        return f"{error.strerror}: {shown(error.filename)}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip() or type(error).__name__


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; what the user can put right ends in one message and exit code 2, without a traceback.

    `XCOOP_DEBUG=1` shows the traceback. Errors of the programme itself are raised as they are.
    """
    try:
        if find_spec("fcntl") is None:  # locks, forks and signals are those of POSIX: elsewhere nothing was tried
            raise UserError(
                f"XCoOp runs on Linux and macOS, and on Windows inside WSL; this Python is {sys.platform}'s"
            )
        return command()
    except (UserError, RuntimeError, *EXPECTED) as error:
        if isinstance(error, RuntimeError) and not NO_MEMORY.search(str(error)):
            raise
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its reader, e.g. `head`, has gone
            return FAILED
        if debugging():
            traceback.print_exc()
        complain(cut(describe(error), LONGEST_MESSAGE))
        return error.code if isinstance(error, UserError) else USER_ERROR
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("XCOOP_DEBUG", "") not in ("", "0")


def environment_defaults() -> dict[str, str]:
    """Data root, output root and seeds, from DATA, OUT and SEEDS."""
    return {
        "data": os.environ.get("DATA") or "data",
        "out": os.environ.get("OUT") or "output",
        "seeds": os.environ.get("SEEDS") or "1 2 3",
    }


def numbers(text: str, name: str) -> list[int]:
    """Integers in a text, separated by blanks or commas, e.g. the seeds "1 2 3"."""
    try:
        found = [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"{name} must be integers such as '1 2 3', not {shown(text)}") from None
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise UserError(f"{name} must be different integers >= 0, such as '1 2 3', not {shown(text)}")
    return found
