"""Concept banks: which visual concepts speak for a class, and the clinical sentences made from them."""

from xcoop.concepts.bank import Concept, ConceptBank, load_bank
from xcoop.concepts.sentences import clinical_sentences

__all__ = ["Concept", "ConceptBank", "clinical_sentences", "load_bank"]
