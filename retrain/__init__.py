"""The domain library: the closed loop, its decisions and its proofs. Knows no Prefect."""
