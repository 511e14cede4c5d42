"""From a spooled record to a stored sample: checks, packs and index rows."""
