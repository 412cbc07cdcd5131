"""One run: what is planned, and the run itself."""
