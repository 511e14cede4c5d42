"""Prefect flows and the `retrain` console script."""
