"""Which pictures repeat one that is stored."""
