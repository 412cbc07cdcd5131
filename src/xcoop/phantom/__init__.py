"""Synthetic medical images whose concepts are known."""
