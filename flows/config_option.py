"""The option that nearly every command has."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; default: RETRAIN_CONFIG.")
]
