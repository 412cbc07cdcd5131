"""What all commands share: an argument parser that knows what was meant, and errors that end in one line."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from xcoop.utils.suggest import closest, cut, escaped, shown

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
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Ends the programme with the message, a hint, and exit code 2."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        words = message.partition("unrecognized arguments: ")[2].split()
        hints = {word: closest(word.partition("=")[0], options) for word in words if word.startswith("--")}
        hint = "".join(f"; did you mean {near} instead of {word}?" for word, near in hints.items() if near)
        if chosen := INVALID_CHOICE.search(message):
            near = closest(chosen[1], re.findall(r"[\w-]+", chosen[2]))
            hint = f"; did you mean {near}?" if near else ""
        super().error(escaped(cut(message, LONGEST_MESSAGE) + hint, keep="\n"))


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


def numbers(text: str, name: str) -> list[int]:
    """Integers in a text, separated by blanks or commas, e.g. the seeds "1 2 3"."""
    try:
        found = [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"{name} must be integers such as '1 2 3', not {shown(text)}") from None
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise UserError(f"{name} must be different integers >= 0, such as '1 2 3', not {shown(text)}")
    return found


def names_like(word: str, options: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    near = closest(word, options)
    return f" Did you mean {near!r}?" if near else ""
