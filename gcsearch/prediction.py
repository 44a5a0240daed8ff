"""Where models that an earlier version registered in MLflow look for `gcsearch.export.classifier`."""

from gcsearch.export.classifier import guesses
from gcsearch.export.classifier import load_export as open_export

__all__ = ["guesses", "open_export"]
