"""When a task is worth trying again: a silent server may come back; nothing else gets better by itself."""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from retrain.errors import Unavailable


def is_unavailable(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unavailable)


RETRYING: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": is_unavailable,
    # Stages keep their own durable record; a second cache would be a second truth.
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
