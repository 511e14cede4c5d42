"""Commands that run a flow where no stack may run, and end with one sentence on Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from prefect.client.orchestration import get_client


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Run a flow in it; Ctrl-C is told to Prefect's server and, in one sentence, to whoever typed it.

    Raises:
        Exit: with code 130, if it was interrupted.
    """
    try:
        _start_server()
        yield
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; {how_to_go_on}", err=True)
        raise typer.Exit(130) from None


def _start_server() -> None:
    """Start it, if there has to be one, so that Ctrl-C does not end it too: it is told how the flow ended.

    Signals that are blocked when a process starts another are blocked in that one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
