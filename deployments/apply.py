"""Applies `automations.yaml` to a Prefect server by name: running it twice changes nothing the second time.

python -m deployments.apply
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from retrain.errors import ConfigError, PostConditionFailed

AUTOMATIONS = Path(__file__).with_name("automations.yaml")


@dataclass(frozen=True)
class Applied:
    """What became of one automation: `created`, `updated` or `unchanged`."""

    name: str
    change: str


def read_automations(path: Path = AUTOMATIONS) -> list[dict[str, Any]]:
    """The automations of a file."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8"))["automations"])


async def apply_automations(wanted: list[dict[str, Any]]) -> list[Applied]:
    """Create or update every automation, and read each one back.

    Raises:
        ConfigError: one names a deployment that the server does not have.
        PostConditionFailed: the server holds something else than what was sent.
    """
    async with get_client() as client:
        return [await _apply(client, specification) for specification in wanted]


async def _apply(client: PrefectClient, specification: dict[str, Any]) -> Applied:
    actions = [await _with_deployment_id(client, action) for action in specification["actions"]]
    core = AutomationCore.model_validate({**specification, "actions": actions})
    existing = await client.read_automations_by_name(core.name)
    if existing and _same(existing[0], core):
        change = "unchanged"
    elif existing:
        await client.update_automation(existing[0].id, core)
        change = "updated"
    else:
        await client.create_automation(core)
        change = "created"
    for surplus in existing[1:]:
        await client.delete_automation(surplus.id)
    stored = await client.read_automations_by_name(core.name)
    if len(stored) != 1 or not _same(stored[0], core):
        raise PostConditionFailed(
            f"Automation {core.name!r} was sent, but the server does not hold it as sent."
        )
    return Applied(core.name, change)


async def _with_deployment_id(client: PrefectClient, action: dict[str, Any]) -> dict[str, Any]:
    if action.get("type") != "run-deployment":
        return action
    name = action["deployment"]
    try:
        deployment = await client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise ConfigError(
            f"Automations start deployment {name!r}, which the server does not have; deploy it first."
        ) from error
    return {**{k: v for k, v in action.items() if k != "deployment"}, "deployment_id": str(deployment.id)}


def _same(stored: Automation, core: AutomationCore) -> bool:
    ignored = {"id", "created", "updated"}
    left = stored.model_dump(mode="json", exclude=ignored)
    right = core.model_dump(mode="json", exclude=ignored)
    return _without_ids(left) == _without_ids(right)


def _without_ids(value: Any) -> Any:
    """Triggers get a fresh id at each parse; everything else must be equal."""
    if isinstance(value, dict):
        return {key: _without_ids(inner) for key, inner in value.items() if key != "id"}
    return [_without_ids(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    import asyncio

    for applied in asyncio.run(apply_automations(read_automations())):
        print(f"{applied.name}: {applied.change}")
