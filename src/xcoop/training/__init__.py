"""How any method is trained: the trainer, feature cache, precision, tracking."""

from xcoop.training.trainer import PromptModel, PromptTrainer

__all__ = ["PromptModel", "PromptTrainer"]
