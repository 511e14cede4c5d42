"""Which frames are worth keeping: rules, and what they share."""
