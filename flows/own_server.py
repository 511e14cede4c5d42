"""Commands that run a flow where no stack may run, and end with one sentence on Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from prefect.client.orchestration import get_client


@contextmanager
def interruptible(how_to_go_on: str | Callable[[], str]) -> Iterator[None]:
    """Run a flow in it; Ctrl-C is told to Prefect's server and, in one sentence, to whoever typed it.

    Args:
        how_to_go_on: end of the sentence; a function is called once it was interrupted.

    Raises:
        Exit: with code 130, if it was interrupted.
    """
    try:
        _start_server()
        yield
    except KeyboardInterrupt:
        text = how_to_go_on if isinstance(how_to_go_on, str) else how_to_go_on()
        typer.echo(f"Interrupted; {text}", err=True)
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
