"""The sections of a report: their words, their tables, and the pictures that they show."""
