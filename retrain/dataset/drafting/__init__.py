"""Versions in the making."""
