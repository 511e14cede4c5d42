"""Files of a training job beside its model and checkpoints, for whoever makes them and whoever looks."""

from pathlib import Path

JOB = "job.json"
"""Settings that decide the weights, and the thread count; there from the start."""
REQUEST = "request.json"
"""What was asked for last and when, to ask for it again."""
REPORTS = "reports.json"
"""Of durable epochs, until there is a result."""
FAILURE = "failure.json"
"""Why the last try ended, if it could say so."""
RESULT = "result.json"
"""There when the job is finished."""
CANCELLED = "cancelled"
"""There from when somebody asked to stop the job until somebody asks to go on."""


def lock_of(folder: Path) -> Path:
    """Held by the process that trains the job of this folder."""
    return folder.with_suffix(".lock")
