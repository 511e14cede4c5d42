"""Prefect flows and the `retrain` console script."""

from retrain import environment

# Prefect reads its switches while it is imported, and every module here imports it.
environment.prepare()
