"""Deleting samples for good, and remembering that they were."""
