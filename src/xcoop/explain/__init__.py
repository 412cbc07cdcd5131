"""Explanations of a trained model, in pictures and words, and the tests of whether they are true."""
