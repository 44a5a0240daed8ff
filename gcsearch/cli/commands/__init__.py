"""What each command does, by what it is about; `gcsearch.cli.app` names them."""
