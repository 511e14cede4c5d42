"""Which process a pid means: numbers are given out again, and the clock can be set."""

from pathlib import Path

import psutil


def start_mark(process: psutil.Process) -> str:
    """When the process started, told so that it reads the same as long as the process lives."""
    stat = Path(f"/proc/{process.pid}/stat")
    try:
        # Clock ticks since boot. psutil's time of day is computed from them and moves when the clock is set.
        return stat.read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{process.create_time():.2f}"
