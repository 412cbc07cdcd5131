"""Pages for readers: self-contained HTML, without scripts and outside links. Knows plain data only."""
