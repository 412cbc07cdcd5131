"""Datasets, one a file, each read in its official layout."""
