"""A trained model in the formats that others read."""
