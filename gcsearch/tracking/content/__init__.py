"""What the runs of a sweep hold in MLflow: names, values and files, see docs/mlflow.md."""
