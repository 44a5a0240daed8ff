"""The command line: flags in, words and tables out."""
