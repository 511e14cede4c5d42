"""Live statistics: counted on the hot path, summed over processes, exported."""
