"""Blobs, relational state, leases and the journal: each with an embedded default and a server behind one interface."""
