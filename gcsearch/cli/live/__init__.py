"""A sweep while it runs: what is known of it at one moment, how that is drawn, and where."""
