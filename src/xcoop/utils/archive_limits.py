"""How much may come out of an archive, and the errors for those that are not to be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SMALL = 1 << 26  # bytes: below that the ratio does not matter


class ArchiveError(ValueError):
    """An archive that is damaged, or that is not to be trusted; the message names it and the member."""


@dataclass(frozen=True)
class Limits:
    """How much may come out of an archive.

    Attributes:
        members: their number.
        total: bytes of all of them.
        ratio: of the unpacked to the packed size; pictures are near 1, tables near 10.
    """

    members: int = 1_000_000
    total: int = 1 << 38
    ratio: int = 200

    def bytes_of(self, archive: Path) -> int:
        """How many bytes this archive may unpack to."""
        return min(self.total, max(min(SMALL, self.total), self.ratio * archive.stat().st_size))


def refused(archive: Path, name: str, reason: str) -> ArchiveError:
    """The error for one member."""
    shown = name if len(name) <= 120 else f"{name[:100]}...({len(name)} characters)"
    return ArchiveError(f"{archive}: the member {shown!r} {reason}; nothing was unpacked")


def too_large(archive: Path, limits: Limits) -> str:
    """Why the member that goes beyond the limits is refused."""
    size = archive.stat().st_size
    return f"makes it unpack to more than the {limits.bytes_of(archive):,} bytes allowed for an archive of {size:,}"
