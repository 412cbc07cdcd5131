"""Medical images on disk: reading images, patient-safe splits, few-shot subsets, and what is wrong with a folder."""
