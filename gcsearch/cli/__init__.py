"""The command line: flags in, words and tables out."""

from gcsearch.cli.app import main as main
