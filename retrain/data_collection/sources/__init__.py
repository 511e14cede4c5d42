"""Where `retrain collect` takes frames from."""
