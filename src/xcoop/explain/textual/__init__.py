"""What learned prompts say, in words and numbers."""
