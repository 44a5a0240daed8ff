"""`python -m gcsearch`."""

from gcsearch.cli import main

main()
