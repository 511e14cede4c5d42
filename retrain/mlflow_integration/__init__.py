"""Runs, the model registry and the promotion ledger."""

from retrain import environment

# MLflow starts its telemetry, and looks for its file in HOME, while it is imported.
environment.prepare()
