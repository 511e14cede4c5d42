"""Which images of a version, and laid out how."""
