"""`explanations.json` as one page, for every reader.

Knows plain data and pictures; no torch.
"""

from xcoop.explain.page.card import card
from xcoop.explain.page.pictures import thumbnail
from xcoop.explain.page.report import report

__all__ = ["card", "report", "thumbnail"]
