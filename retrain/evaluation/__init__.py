"""One metric kernel, paired comparison and the promotion gate."""
