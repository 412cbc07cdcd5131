"""How good a classifier is, and how far that figure can be trusted."""
