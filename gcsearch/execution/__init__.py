"""Where trials run: workers, Ray, placement on the nodes of a cluster."""
