"""The command line: flags in, words and tables out."""

from gcsearch.cli.app import main as main  # scripts of editable installations import it from here
