"""Prefect's server of a command's own, where no stack runs."""

import signal

from prefect.client.orchestration import get_client


def start_server() -> None:
    """Start it, if there has to be one, so that Ctrl-C does not end it too: it is told how the flow ended.

    Signals that are blocked when a process starts another are blocked in that one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
