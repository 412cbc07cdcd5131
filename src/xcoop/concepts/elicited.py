"""What a bank says of the language model that was asked for it.

elicited:
  model: some-model-7b           # as it was asked for
  host: api.example.org          # of the server
  date: "2026-01-31"             # UTC, of the last answer
  samples: 5                     # answers that were asked for
  threshold: 0.5                 # the share of a class's answers that must name a concept
  prompt_sha256: 9f86d0...       # of the prompt
  prompt: |                      # what was asked, in full
    ...
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xcoop.concepts.schema import BankError, check_keys, text, whole

KEYS = ("model", "host", "date", "samples", "threshold", "prompt_sha256", "prompt")


@dataclass(frozen=True)
class Elicited:
    """Who was asked, when, and how."""

    model: str
    host: str
    date: str
    samples: int
    threshold: float
    prompt_sha256: str
    prompt: str

    @classmethod
    def read(cls, path: Path, data: Any) -> Elicited:
        """What a bank's file says.

        Raises:
            BankError: a key is missing, unknown, or of a wrong kind, or the prompt is not that of the hash.
        """
        check_keys(path, "elicited", data, KEYS)
        words = {key: text(path, f"elicited, {key}", data[key]) for key in ("model", "host", "date", "prompt_sha256")}
        share, prompt = data["threshold"], data["prompt"]
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise BankError(f"{path}: elicited, threshold must be a share above 0, at most 1, not {share!r}")
        if not isinstance(prompt, str) or sha256(prompt) != words["prompt_sha256"]:
            raise BankError(f"{path}: elicited, prompt is not the text that prompt_sha256 belongs to")
        return cls(**words, samples=whole(path, "elicited, samples", data["samples"]), threshold=share, prompt=prompt)

    def as_data(self) -> dict[str, Any]:
        """As it stands in a bank's file."""
        return asdict(self)


def sha256(prompt: str) -> str:
    """Of a prompt, in hexadecimal digits."""
    return hashlib.sha256(prompt.encode()).hexdigest()
