"""Lists of images: read from folders, divided, drawn from, checked."""
