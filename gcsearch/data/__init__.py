"""Images on disk to features in the cache."""
