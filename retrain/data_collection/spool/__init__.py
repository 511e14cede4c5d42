"""The local spool: frames handed over durably, read back, and scrubbed."""
