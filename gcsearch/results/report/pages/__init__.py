"""The pages: what holds sections, one sweep, several sweeps."""
