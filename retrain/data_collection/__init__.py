"""Takes the frames that matter out of production and stores them once."""
