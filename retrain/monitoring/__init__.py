"""Shows what the durable state holds, and nothing else."""
