"""How any method is trained: the trainer, feature cache, precision, resuming, tracking."""
