"""A sweep on disk: its folder, its journal, its state, the lease of who drives it."""
