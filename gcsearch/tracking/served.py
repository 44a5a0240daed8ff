"""An export as a model that MLflow loads: image files in, classes out.

MLflow keeps a copy of this file beside the export and runs it on loading ("models from code"), so that nothing is
pickled.  It needs gcsearch installed where it is loaded; everything else comes from the export.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class ServedExport(PythonModel):  # type: ignore[misc]
    """Input: a column `image` with the bytes of an image file per row. Output: `class`, `probability`, `logit`.

    Parameters: `classes`, other class names than the export's; `seed`, one seed's prompt in place of the mean over all.
    """

    def load_context(self, context: Any) -> None:
        """Open the export that lies beside the model."""
        from gcsearch.export.classifier import load_export

        self.export = load_export(context.artifacts["export"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The likeliest class of every image."""
        from gcsearch.export.classifier import guesses

        given = params or {}
        names = list(given.get("classes", [])) or self.export.names
        seed = given.get("seed", -1)
        rows = guesses(self.export, list(model_input["image"]), names, None if seed < 0 else int(seed))
        best = [row[0] for row in rows]
        return pd.DataFrame(
            {
                "class": [guess.name for guess in best],
                "probability": [guess.probability for guess in best],
                "logit": [guess.logit for guess in best],
            }
        )


set_model(ServedExport())
