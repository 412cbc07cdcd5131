"""Medical images on disk: reading pictures, patient-safe splits, few-shot subsets, and what is wrong with a folder."""
