"""Prefect tasks: they build adapters from config and add retries, timeouts and artifacts."""

from retrain import environment

# Prefect and MLflow read their switches while they are imported, and the modules here import them.
environment.prepare()
