"""What is known about a frame beside its picture and boxes: release, camera, recording and the caller's own facts."""

import json
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, String

from retrain.data_collection.statistics.records import UNPREDICTED
from retrain.errors import BadInput
from retrain.storage.schema import samples

UNKNOWN_CAMERA = "unknown"


def _room(column: Column[Any]) -> int:
    kind = column.type
    assert isinstance(kind, String)
    assert kind.length is not None
    return kind.length


_MODEL, _RELEASE = _room(samples.c.model), _room(samples.c.release)
_CAMERA, _RECORDING = _room(samples.c.camera), _room(samples.c.recording)
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def camera_of(metadata: Mapping[str, Any]) -> str:
    """The name of the camera; `UNKNOWN_CAMERA` where none is given.

    Raises:
        BadInput: half a surrogate pair, which no file and no server takes.
    """
    given = metadata.get("camera_id")
    if given is None:
        return UNKNOWN_CAMERA
    camera = str(given)
    try:
        camera.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"The camera's name is no text ({error}), got {camera!r:.100}.") from error
    return camera


def recording_of(metadata: Mapping[str, Any], camera: str) -> str:
    """The name of the recording, by default the camera's."""
    given = metadata.get("recording")
    return camera if given is None else str(given)


def check_names(camera: str, metadata: Mapping[str, Any]) -> None:
    """For the hot path, 0.1 µs: what else no table takes is found when the frame is stored.

    Raises:
        BadInput: the name of camera or recording is too long or holds NUL, which Postgres refuses.
    """
    recording = metadata.get("recording", camera)
    # At once for nearly every caller; which of them is wrong is asked afterwards.
    if (
        type(recording) is str
        and len(camera) <= _CAMERA
        and len(recording) <= _RECORDING
        and "\0" not in camera
        and "\0" not in recording
    ):
        return
    _check_name("camera's name", camera, _CAMERA)
    _check_name("recording's name", recording_of(metadata, camera), _RECORDING)


def check_release(release: str) -> None:
    """Raises: BadInput: it cannot be a release."""
    _check_name("release", release, _RELEASE)


def check_model(model: str) -> None:
    """Raises: BadInput: it cannot be the name of a model."""
    _check_name("model", model, _MODEL)


def json_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as a table holds them.

    Raises:
        BadInput: they hold something that is no JSON value, NaN, or NUL; or say something else than yes or no where it
            is asked whether a model looked.
    """
    try:
        text = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"Metadata must hold JSON values only: {error}.") from error
    if _NUL_IN_JSON.search(text):
        raise BadInput("Metadata must hold no NUL characters; Postgres cannot read them.")
    found: dict[str, Any] = json.loads(text)
    if not isinstance(found.get(UNPREDICTED, True), bool):
        raise BadInput(f"Metadata {UNPREDICTED!r} says whether no model looked: true or false.")
    return found


def fitting(text: str, column: Column[Any]) -> str:
    """As much of a text as the column takes, for rows that say what was wrong with it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[: _room(column)]


def _check_name(what: str, name: Any, room: int) -> None:
    if not isinstance(name, str):
        raise BadInput(f"The {what} must be text, got {name!r:.100}.")
    if len(name) > room:
        raise BadInput(f"The {what} has {len(name)} characters; at most {room} are kept.")
    if "\0" in name:
        raise BadInput(f"The {what} holds a NUL character: {name!r:.100}.")
