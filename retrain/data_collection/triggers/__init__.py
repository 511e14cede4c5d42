"""When enough new samples wait for a retraining, and what would have fired in the past."""
