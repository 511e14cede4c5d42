from pathlib import Path

import pytest
import yaml
from prefect.utilities.importtools import import_object

DEPLOYMENTS = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))["deployments"]
AUTOMATIONS = yaml.safe_load(Path("deployments/automations.yaml").read_text(encoding="utf-8"))["automations"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_every_entrypoint_imports_and_is_a_flow(deployment):
    # Loading an entrypoint falls back to a placeholder when its import fails; importing it does not.
    flow = import_object(deployment["entrypoint"])

    assert flow.name
    assert flow.description


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_every_deployment_names_each_parameter_of_its_flow(deployment):
    flow = import_object(deployment["entrypoint"])

    assert set(deployment["parameters"]) == set(flow.parameters.properties)


def test_every_automation_starts_a_deployment_that_exists():
    names = {f"{import_object(d['entrypoint']).name}/{d['name']}" for d in DEPLOYMENTS}

    started = {action["deployment"] for automation in AUTOMATIONS for action in automation["actions"]}

    assert started <= names


def test_no_flow_module_shadows_a_top_level_package():
    import importlib.util

    ours = {path.stem for path in Path("flows").glob("*.py")} - {"__init__"}

    shadowed = {name for name in ours if importlib.util.find_spec(name) is not None}

    assert shadowed == set()
