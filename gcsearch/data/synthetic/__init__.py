"""The embedded worlds: images drawn in several styles, written as ordinary data sets."""
