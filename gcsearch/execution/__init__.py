"""Where trials run: executors, this process or Ray Tune, and placement on the nodes of a cluster."""
