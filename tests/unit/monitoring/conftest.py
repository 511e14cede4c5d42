import runpy
from pathlib import Path

import pytest

from retrain.monitoring.report import LoopReport


@pytest.fixture(scope="session")
def report() -> LoopReport:
    return runpy.run_path(str(Path(__file__).with_name("example_report.py")))["example_report"]()
