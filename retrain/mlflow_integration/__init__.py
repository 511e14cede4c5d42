"""Runs, the model registry and the promotion ledger."""
