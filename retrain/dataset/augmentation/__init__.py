"""Augmentation: the steps a pipeline can name, how each changes pixels and boxes, and a picture of the outcome."""
