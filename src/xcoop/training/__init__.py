"""How any method is trained: the trainer, kept features, the clock and the tracker."""

from xcoop.methods.model import PromptModel
from xcoop.training.trainer import PromptTrainer

__all__ = ["PromptModel", "PromptTrainer"]
