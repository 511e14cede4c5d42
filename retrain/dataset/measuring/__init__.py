"""Columns and coverage that statistics, checks and queries share."""
