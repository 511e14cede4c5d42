"""The tables in README and docs are what the committed benchmarks printed, and nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest

QUOTED = {
    "loop": "README.md",
    "collection": "README.md",
    "near_duplicates": "docs/measured.md",
    "estimator": "docs/measured.md",
    "dataset": "docs/measured.md",
    "training": "docs/measured.md",
    "evaluation": "docs/measured.md",
    "gate": "docs/gate.md",
}


@pytest.mark.parametrize("name", QUOTED)
def test_the_quoted_table_is_the_committed_benchmarks(name):
    specification = importlib.util.spec_from_file_location(name, f"benchmarks/{name}.py")
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    result = json.loads(Path(f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))

    assert benchmark.markdown(result) in Path(QUOTED[name]).read_text(encoding="utf-8")
