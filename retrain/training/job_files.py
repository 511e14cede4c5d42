"""Files of a training job beside its model and checkpoints, for whoever makes them and whoever looks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

JOB = "job.json"
"""Settings that decide the weights, and the thread count; there from the start."""
REQUEST = "request.json"
"""What was asked for last and when, to ask for it again."""
REPORTS = "reports.json"
"""Of durable epochs, until there is a result."""
PREFLIGHT = "preflight.json"
"""What was found before it began, if it was asked for."""
RESOLVED = "resolved.json"
"""What was found to be set up."""
SPLIT = "split.json"
"""In how many parts batches are trained on, once memory ran out."""
FAILURE = "failure.json"
"""Why the last try ended, if it could say so."""
RESULT = "result.json"
"""There when the job is finished."""
CANCELLED = "cancelled"
"""There from when somebody asked to stop the job until somebody asks to go on."""


def lock_of(folder: Path) -> Path:
    """Held by the process that trains the job of this folder."""
    return folder.with_suffix(".lock")


def read_json(path: Path) -> Any:
    """What is in the file, or None when it was not written yet."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same as it will be read back from a file."""
    read_back: dict[str, Any] = json.loads(json.dumps(dict(content), default=str))
    return read_back
