"""What trainers are made of: the model with prompts, alignment, adapters on a cache, distillation."""
