"""Prefect events: hints that something durable happened. The record in the state store is the truth."""

import uuid
from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

_NAMESPACE = uuid.UUID("6f1d2d52-6a0b-5e0e-9d55-3b1f0b0f6a11")


def announce(event: str, model: str, key: str, payload: Mapping[str, Any]) -> None:
    """Emit `retrain.<event>` for a model.

    Args:
        key: makes the event id; announcing the same thing twice is one event for the server.
    """
    emit_event(
        event=f"retrain.{event}",
        resource={"prefect.resource.id": f"retrain.model.{model}", "prefect.resource.name": model},
        payload=dict(payload),
        id=uuid.uuid5(_NAMESPACE, f"{event}/{key}"),
    )
