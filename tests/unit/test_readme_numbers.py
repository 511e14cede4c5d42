"""README quotes what the committed benchmark printed, and nothing else."""

import importlib.util
import json
from pathlib import Path


def test_readmes_table_is_the_committed_benchmarks():
    specification = importlib.util.spec_from_file_location("loop", "benchmarks/loop.py")
    loop = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loop)
    result = json.loads(Path("benchmarks/results/loop.json").read_text(encoding="utf-8"))

    assert loop.markdown(result) in Path("README.md").read_text(encoding="utf-8")
