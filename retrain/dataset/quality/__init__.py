"""What may be wrong with the labels of a version."""
