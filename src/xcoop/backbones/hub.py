"""Models by their names on Hugging Face's hub: from its local cache, else by its own client."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xcoop.utils.console import to_paste

logger = logging.getLogger(__name__)

SCHEME = "hf-hub:"  # may stand before a name, as open_clip writes it
DATASET = "datasets/"  # stands before the name of weights that lie among data


def hub_folder(source: str, patterns: Sequence[Sequence[str]], complete: Callable[[Path], bool]) -> Path:
    """The local folder with a model's files.

    Args:
        source: the model's name on the hub, `owner/name`, or `datasets/owner/name`.
        patterns: the files that are needed; where they are not there, the next ones are asked for.
        complete: whether a folder has all that is needed.

    Raises:
        ImportError: the hub's client is not installed.
        ConnectionError: the files are neither in the cache nor to be had; the message says what to do.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        needed = to_paste("pip", "install", "xcoop[hf]")
        raise ImportError(f"{source} is fetched with huggingface_hub: {needed}") from error
    whole, reason = source.removeprefix(SCHEME), "the hub does not have the files of such a model under this name"
    name, among_data = whole.removeprefix(DATASET), whole.startswith(DATASET)
    kind: dict[str, Any] = {"repo_type": "dataset"} if among_data else {}
    for local in (True, False):
        for wanted in patterns:
            try:
                folder = Path(snapshot_download(name, allow_patterns=list(wanted), local_files_only=local, **kind))
            except Exception as error:  # whatever the client stumbles over: no network, no such name, no permission
                reason = reason if local else (str(error).strip() or type(error).__name__).splitlines()[0][:300]
                continue
            if complete(folder):
                return folder
        if local:
            logger.info("%s is not in the hub's local cache; fetching it", name)
    steps = f"hf download {name} --local-dir FOLDER"
    if among_data:  # of which there is more than one needs
        steps += f" --repo-type dataset --include {' '.join(shlex.quote(file) for file in patterns[0])}"
    raise ConnectionError(
        f"{name} cannot be fetched ({reason}). On a machine with network: `{steps}`; "
        "then bring FOLDER here, and set MODEL.BACKBONE.PATH to it"
    )
