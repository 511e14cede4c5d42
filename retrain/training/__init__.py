"""Ultralytics detectors trained under Lightning, resumable and exact."""
