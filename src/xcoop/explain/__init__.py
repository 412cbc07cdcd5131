"""What a learned prompt looks at and says, and how far that can be trusted."""
