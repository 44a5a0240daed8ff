"""An export to MLflow's model registry and its aliases `champion` and `challenger`.

The model is saved as code (`served.py`) beside the export's files: no pickle, so it loads where MLflow is told to open
none.  It becomes an artifact of the champion's run, and a version of a registered model that points there.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcsearch import __version__
from gcsearch.errors import InputError, RunError
from gcsearch.export.classifier import read_facts
from gcsearch.files import read_text
from gcsearch.results.documents import Exported
from gcsearch.tracking import relocation
from gcsearch.tracking.client import error_code, opened

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
_DIGEST = "gcsearch.export"
_FOLDER = "model"  # below the run's artifacts


@dataclass(frozen=True)
class Version:
    """A version of a registered model, and whether it was there before."""

    name: str
    number: str
    known: bool

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}@{CHAMPION}"

    def describe(self) -> str:
        """For people."""
        return f"{self.uri} is version {self.number}{', as before' if self.known else ''}"


def register(folder: Path, uri: str, name: str, artifacts: Path | None = None) -> Version:
    """Make the export in `folder` the champion of the registered model `name` in the MLflow store `uri`.

    `artifacts` is the folder of the store for the files of runs; None where a server has them.

    The former champion becomes the challenger.  A version with the same content is taken instead of a new one, so that
    registering twice changes nothing.

    Raises:
        InputError: `name` cannot be a model's name, or `folder` is no export.
        RunError: the store does not answer, or no longer has the champion's run.
    """
    facts = read_facts(folder)
    if not name.strip() or any(mark in name for mark in "/:"):
        remedy = "Choose another with --name."
        raise InputError("a model's name has no slash and no colon", key="--name", received=repr(name), remedy=remedy)
    with opened(uri) as client:
        former = _version_of(client, name, CHAMPION)
        number = _find(client, name, facts.digest)
        known = number is not None
        if number is None:
            number = _create(client, folder, name, facts, _Artifacts(uri, artifacts))
        if former != number:
            client.set_registered_model_alias(name, CHAMPION, number)
            if former is not None:
                client.set_registered_model_alias(name, CHALLENGER, former)
    return Version(name, number, known)


def _version_of(client: MlflowClient, name: str, alias: str) -> str | None:
    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except Exception as error:
        if error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # no such model, or it has no such alias
        raise


def _find(client: MlflowClient, name: str, digest: str) -> str | None:
    """The newest version of this content."""
    quoted = name.replace("'", "''")
    versions = client.search_model_versions(f"name = '{quoted}' and tag.`{_DIGEST}` = '{digest}'")
    return max((str(version.version) for version in versions), key=int, default=None)


@dataclass(frozen=True)
class _Artifacts:
    """Where the files of runs are: as the MLflow store `uri` says, or, of runs of this store, in `artifacts`."""

    uri: str
    artifacts: Path | None

    def claimed(self, client: MlflowClient, run: Any) -> Any:
        """The run, its files where the store lies now."""
        if self.artifacts is None:
            return run
        relocation.claim(self.uri, self.artifacts, {run.info.run_id: run.info.artifact_uri})
        return client.get_run(run.info.run_id)


def _create(client: MlflowClient, folder: Path, name: str, facts: Exported, runs: _Artifacts) -> str:
    run = runs.claimed(client, _run(client, facts.origin.run_id))
    with tempfile.TemporaryDirectory() as aside:
        saved = Path(aside, _FOLDER)
        _save(folder, saved)
        place = f"{_FOLDER}-{facts.digest}"
        client.log_artifacts(run.info.run_id, str(saved), place)
    _ensure_model(client, name)
    source = f"{run.info.artifact_uri.rstrip('/')}/{place}"
    tags = {
        _DIGEST: facts.digest,
        "gcsearch.sweep": facts.chosen.sweep,
        "gcsearch.method": facts.champion.config.method,
    }
    tags["gcsearch.selection"] = "oracle" if facts.chosen.oracle else "clean"
    card = read_text(folder / "card.md")
    made = client.create_model_version(name, source, run.info.run_id, tags=tags, description=card)
    return str(made.version)


def _run(client: MlflowClient, run_id: str) -> Any:
    """The champion's run. RunError where the store has none."""
    try:
        return client.get_run(run_id)
    except Exception as error:
        if error_code(error) not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        shown = run_id or "(none)"
        raise RunError(f"The MLflow store has no run {shown} of the champion, which the model belongs to.") from None


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Prompts for a frozen CLIP, exported by gcsearch.")
    except Exception as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _save(folder: Path, target: Path) -> None:
    """The export as an MLflow model in the folder `target`."""
    with warnings.catch_warnings():
        # Of MLflow's own types, and for want of an example input, which would be somebody's image in every model.
        warnings.filterwarnings("ignore", message="(?s).*(Any type hint is inferred|input example was not provided)")
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

        columns = [ColSpec("string", "class"), ColSpec("double", "probability"), ColSpec("double", "logit")]
        given = [ParamSpec("classes", "string", [], (-1,)), ParamSpec("seed", "long", -1)]
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"export": str(folder)},
            signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema(columns), ParamSchema(given)),
            pip_requirements=[f"gcsearch=={__version__}"],
        )
