"""One page that a team decides by."""
