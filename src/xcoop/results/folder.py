"""A run's folder while a process works in it: locked, checked, logged.

The lock ends with the process, however that ends; see `xcoop.utils.files`.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.config.identity import config_hash, differences, read_config
from xcoop.results.places import other_data
from xcoop.results.record import CONFIG, PREDICTIONS, RESULTS, Origin, read_run
from xcoop.utils.console import BusyError, UserError
from xcoop.utils.files import atomic_write_text, require_ours, sweep, take, unguarded, unlinked, unused
from xcoop.utils.suggest import escaped

if TYPE_CHECKING:
    from yacs.config import CfgNode

LOCK, LOG = ".lock", "log.txt"

logger = logging.getLogger(__name__)


class FinishedError(Exception):
    """The run that was to be made is done already."""


@contextmanager
def occupied(folder: Path, cfg: CfgNode, origin: Origin, once: bool = False) -> Iterator[None]:
    """Takes a run's folder: locks it, checks that it may be used, saves the config, and logs what is printed.

    Args:
        folder: of the run.
        cfg: its merged config.
        origin: how it was started.
        once: whether a run that is finished is left alone.

    Raises:
        BusyError: another process works in it.
        FileExistsError: it holds a file of somebody else's under a name that is to be written; nothing is changed.
        FinishedError: it is finished, and was to be made `once`; nothing is changed.
        UserError: it holds a run with other settings; nothing is changed.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"OUTPUT_DIR {folder} is a file, not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            sweep(place)
        check_free(folder, cfg, origin)
        if once and read_run(folder) is not None:  # asked under the lock: nobody can finish it after the answer
            raise FinishedError(f"{folder} holds a finished run")
        claim(folder, cfg, origin)
        with logged(folder):
            if why := unguarded(folder):
                logger.warning(why)
            yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of an existing folder; BusyError if another process does."""
    with open(folder / LOCK, "a+", encoding="utf-8", errors="replace", opener=unlinked) as file:
        taken = take(file.fileno(), folder / LOCK)
        file.seek(0)
        said = file.read(200).strip()
        if taken is False:
            raise BusyError(f"{folder} is in use by another process ({said or 'unknown'})")
        if said and not said.startswith("process "):
            raise UserError(f"{folder / LOCK} is not xcoop's: it is not overwritten; use another OUT (or --output-dir)")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def busy(folder: Path) -> bool:
    """Whether a process works in this folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with locked(folder):
            return False
    except BusyError:
        return True


def claim(folder: Path, cfg: CfgNode, origin: Origin) -> None:
    """Saves the config of a run in its folder, if that may be used; see `check_free`.

    Our trainers do so before they write anything else, as other programmes that run them know nothing of it.
    """
    check_free(folder, cfg, origin)
    atomic_write_text(folder / CONFIG, cfg.dump())


def check_free(folder: Path, cfg: Mapping[str, Any], origin: Origin) -> None:
    """UserError if `folder` holds a run, finished or interrupted, that is not the one described by `cfg`.

    Raises FileExistsError for a file of somebody else's under a name that is to be written.
    """
    require_ours(folder / CONFIG, folder / RESULTS, folder / PREDICTIONS)
    if cfg["TEST"]["COMPUTE_CMAT"]:
        require_ours(folder / "cmat.json")
    if not (folder / CONFIG).is_file():  # else they are of the run that lies there, be they damaged
        require_ours(*folder.glob("*/model*.pth.tar*"), kind="checkpoint")
    done = read_run(folder)
    if done and (done["evaluated_from"], done["load_epoch"]) != (origin.evaluated_from, origin.load_epoch):
        raise UserError(f"{folder} holds the results of another evaluation; give --output-dir another folder")
    state = "the results of a run" if done else "an interrupted run" if _has_checkpoints(folder) else ""
    saved = _saved(folder, cfg) if state else None
    recorded = done["config_hash"] if done else saved and config_hash(saved)
    if (recorded and recorded != config_hash(cfg)) or (saved and other_data(saved, cfg)):
        raise UserError(conflict(folder, state, saved, cfg))


def check_resumed(cfg: Mapping[str, Any]) -> None:
    """UserError if RESUME names no run, or one whose settings, and so whose first epochs, are not those of `cfg`."""
    if not cfg["RESUME"]:
        return
    from xcoop.results.checkpoints import require_resumable

    try:
        require_resumable(cfg["RESUME"])
    except ValueError as error:
        raise UserError(str(error)) from error
    saved = _saved(Path(cfg["RESUME"]), cfg)
    if saved is None:  # a run of another programme: the checkpoint itself is looked at later
        return
    lines = [*differences(saved, cfg), *filter(None, [other_data(saved, cfg)])]
    if saved.get("SEED") != cfg["SEED"]:
        lines.append(f"SEED: {saved.get('SEED')!r} there, {cfg['SEED']!r} now")
    if lines:
        what = "\n  ".join(lines)
        raise UserError(
            f"RESUME {cfg['RESUME']} holds a run with other settings, so its epochs are not the first of this one:\n  "
            f"{what}\nResume with the same settings; or train from the start in another folder, without RESUME; or "
            "begin a new training at its weights with MODEL.INIT_WEIGHTS <a file of its prompt_learner>"
        )


def conflict(folder: Path, state: str, saved: Mapping[str, Any] | None, cfg: Mapping[str, Any]) -> str:
    """What differs between a run that is there and the one that is wanted, and what can be done."""
    lines = differences(saved, cfg) if saved else []
    lines += [line] if saved and (line := other_data(saved, cfg)) else []
    what = "\n  ".join(lines or [f"({CONFIG} is missing or agrees; {RESULTS} names another configuration)"])
    return (
        f"{folder} holds {state} with other settings:\n  {what}\n"
        "Nothing was changed. Use another OUT (or --output-dir), or move that folder away."
    )


def _saved(folder: Path, cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    path = folder / CONFIG
    return read_config(path) if path.is_file() else None


def _has_checkpoints(folder: Path) -> bool:
    return any(folder.glob("*/model*.pth.tar*"))


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Copies what is printed or logged into `log.txt`; an older log gets its time as a suffix.

    The newest log has the plain name, since log parsers read that one. An exception is written into it.
    """
    from dassl.utils import setup_logger

    _set_aside(folder / LOG)
    console = sys.stdout
    setup_logger(str(folder))
    tee: Any = sys.stdout
    handler = _Printer()
    logging.getLogger().addHandler(handler)
    level = logging.getLogger("xcoop").level
    logging.getLogger("xcoop").setLevel(logging.INFO)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the disk may be full
            tee.file.write(traceback.format_exc())
        raise
    finally:
        logging.getLogger("xcoop").setLevel(level)
        logging.getLogger().removeHandler(handler)
        sys.stdout = console
        for end in (tee.flush, tee.file.close):
            with suppress(OSError):  # lines are written as they come: what fails now failed before
                end()
        # Dassl's tee closes its console when it is deleted: give it one that may be closed.
        tee.file = tee.console = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class _Printer(logging.Handler):
    """Prints records where everything else is printed, so that console and log file have them in order."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record as one line."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        sys.stdout.write(escaped(f"{level}{record.getMessage()}", keep="\n\t") + "\n")


def _set_aside(log: Path) -> None:
    if os.path.lexists(log):  # a link, even to nothing, would be written through
        stamp = time.strftime("-%Y-%m-%d-%H-%M-%S", time.localtime(log.lstat().st_mtime))
        log.replace(unused(log.with_name(log.name + stamp)))
