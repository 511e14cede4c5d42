"""Auto-labels what the model is sure of and has the rest reviewed."""
