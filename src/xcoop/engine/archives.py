"""Unpacking archives that somebody else made, so that nothing lands outside their folder."""

from __future__ import annotations

from pathlib import Path


def unpack(archive: str) -> None:
    """Unpacks a zip or tar file into its own folder, over nothing; see `xcoop.utils.unpack`.

    Raises:
        ValueError: it is neither, is damaged, or holds a path or link that leads outside; nothing is then unpacked.
        FileExistsError: something of that name lies beside it already.
    """
    from xcoop.utils.unpack import unpack as unpack_safely

    path = Path(archive).resolve()
    unpack_safely([path], path.parent, join=True)
