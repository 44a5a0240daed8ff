"""MLflow: what is written there, and what is read back."""

import os

# MLflow reads these when it is imported or starts a server; here they are set before a module of this package imports
# it. Nothing is sent anywhere, nothing is printed to stdout, a dead server fails after seconds instead of minutes;
# whoever sets one himself is obeyed.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
