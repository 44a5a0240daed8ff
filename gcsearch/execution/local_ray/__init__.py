"""A Ray of this machine alone: its processes, and the room that they need."""
