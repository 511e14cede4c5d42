"""Prefect tasks: they build adapters from config and add retries, timeouts and artifacts."""
