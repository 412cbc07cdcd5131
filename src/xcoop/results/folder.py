"""A run's folder while a process works in it: locked, checked, logged.

The lock ends with the process, however that ends; see `xcoop.utils.files`.
"""

from __future__ import annotations

import filecmp
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.config import labels
from xcoop.config.merge import config_hash, differences, read_config
from xcoop.results.record import CONFIG, PREDICTIONS, RESULTS, Origin, read_run
from xcoop.utils.console import BusyError, UserError, escaped
from xcoop.utils.files import atomic_write_text, require_ours, sweep, take, unguarded, unlinked, unused

if TYPE_CHECKING:
    from yacs.config import CfgNode

LOCK, LOG = ".lock", "log.txt"
COMPARED = 50  # files of two folders whose contents are compared

logger = logging.getLogger(__name__)


class FinishedError(Exception):
    """The run that was to be made is done already."""


@contextmanager
def occupied(folder: Path, cfg: CfgNode, origin: Origin, once: bool = False) -> Iterator[None]:
    """Takes a run's folder: locks it, checks that it may be used, and logs what is printed.

    The config is saved by whoever trains or evaluates, once the checkpoint that may lie there was found to fit.

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
    interrupted = any(folder.glob("*/model*.pth.tar*"))
    state = "the results of a run" if done else "an interrupted run" if interrupted else ""
    saved = read_config(folder / CONFIG) if state and (folder / CONFIG).is_file() else None
    recorded = done["config_hash"] if done else saved and config_hash(saved)
    if (recorded and recorded != config_hash(cfg)) or (saved and other_data(saved, cfg)):
        lines = _differences(saved, cfg) if saved else []
        what = "\n  ".join(lines or [f"({CONFIG} is missing or agrees; {RESULTS} names another configuration)"])
        raise UserError(
            f"{folder} holds {state} with other settings:\n  {what}\n"
            "Nothing was changed. Use another OUT (or --output-dir), or move that folder away."
        )


def check_data(folder: Path, cfg: Mapping[str, Any]) -> None:
    """UserError if runs below `<OUT>/<dataset>` are of other images than those of `cfg`, whatever their method.

    One of them is looked at: the others were held against it when they began.
    """
    path = next(folder.glob(f"*/*/seed*/{CONFIG}"), None)
    if path is None:
        return
    saved = read_config(path)["DATASET"]
    names = saved.get("NAME", ""), cfg["DATASET"]["NAME"]
    what = f"DATASET.NAME: {names[0]} there, {names[1]} now" if names[0] != names[1] else ""
    if what := what or other_data({"DATASET": saved}, cfg):
        raise UserError(
            f"{folder} holds runs of other images:\n  {what}\nNothing was changed. Give these a name of their own, "
            f"{labels.KEY} <name>, or use another OUT"
        )


def save_config(folder: Path, cfg: CfgNode) -> None:
    """Saves the config of a run in its folder, which `check_free` has found to be free for it."""
    atomic_write_text(folder / CONFIG, cfg.dump())


def check_resumed(cfg: Mapping[str, Any]) -> None:
    """UserError if RESUME names no run, or one whose settings, and so whose first epochs, are not those of `cfg`."""
    if not cfg["RESUME"]:
        return
    from xcoop.results.checkpoints import require_resumable

    try:
        require_resumable(cfg["RESUME"])
    except ValueError as error:
        raise UserError(str(error)) from error
    path = Path(cfg["RESUME"]) / CONFIG
    if not path.is_file():  # a run of another programme: the checkpoint itself is looked at later
        return
    saved = read_config(path)
    lines = _differences(saved, cfg)
    if saved.get("SEED") != cfg["SEED"]:
        lines.append(f"SEED: {saved.get('SEED')!r} there, {cfg['SEED']!r} now")
    if lines:
        what = "\n  ".join(lines)
        raise UserError(
            f"RESUME {cfg['RESUME']} holds a run with other settings, so its epochs are not the first of this one:\n  "
            f"{what}\nResume with the same settings; or train from the start in another folder, without RESUME; or "
            "begin a new training at its weights with MODEL.INIT_WEIGHTS <a file of its prompt_learner>"
        )


def _differences(saved: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[str]:
    """A line for each setting that differs, and one for data that do."""
    return [*differences(saved, cfg), *filter(None, [other_data(saved, cfg)])]


def other_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between the data of two merged configs with one hash, in which `DATASET.PATH` counts by its name.

    "" if nothing is known to differ. A place that is gone was moved, and a copy has the same files: neither differs.
    """
    one, two = (str(cfg.get("DATASET", {}).get("PATH", "")) for cfg in (old, new))
    if not (one and two and os.path.exists(one) and os.path.exists(two)) or os.path.samefile(one, two):
        return ""
    files = _files(Path(one))
    if files == _files(Path(two)) and (isinstance(files, bytes) or _alike(Path(one), Path(two), sorted(files))):
        return ""
    return f"DATASET.PATH: {one} there, {two} now, which has other files"


def _files(place: Path) -> dict[str, int] | bytes:
    """The content of a table; of a folder, the size of each file, without what is written there (JSON)."""
    if place.is_file():
        return place.read_bytes()
    paths = [Path(folder, name) for folder, _, names in os.walk(place) for name in names if not name.endswith(".json")]
    # of a link the file that it leads to; a broken one has no size
    return {str(path.relative_to(place)): path.stat().st_size if path.exists() else -1 for path in paths}


def _alike(one: Path, two: Path, names: Sequence[str]) -> bool:
    """Whether some of the files of two folders, evenly spread, have the same content; all have the same sizes."""
    some = names[:: max(1, len(names) // COMPARED)]
    return all(filecmp.cmp(one / name, two / name, shallow=False) for name in some if (one / name).exists())


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Copies what is printed or logged into `log.txt`; an older log gets its time as a suffix.

    The newest log has the plain name, since log parsers read that one. An exception is written into it.
    """
    from dassl.utils import setup_logger

    log = folder / LOG
    if os.path.lexists(log):  # a link, even to nothing, would be written through
        stamp = time.strftime("-%Y-%m-%d-%H-%M-%S", time.localtime(log.lstat().st_mtime))
        log.replace(unused(log.with_name(log.name + stamp)))
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
