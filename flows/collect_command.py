"""`retrain collect`: predict frames of files, videos and cameras, and hand them to data collection."""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from flows.collect_model import CHAMPION, LoadedModel, load_model
from flows.collect_place import collection_place
from flows.collect_report import Tally, progress_display, show_report
from retrain.boxes import Detections
from retrain.config import RetrainConfig
from retrain.config_sections import DataCollection
from retrain.data_collection.checks import check_known
from retrain.data_collection.collector import AUDIT, DataCollectionService
from retrain.data_collection.frame import mirrored_back
from retrain.data_collection.sources.files import open_source
from retrain.data_collection.sources.frame import DoneBefore, Item, Source, SourceFrame, Unusable
from retrain.data_collection.sources.progress import Progress
from retrain.data_collection.statistics.records import UNPREDICTED, draws_of_process
from retrain.data_collection.strategies.names import CollectionStrategy
from retrain.errors import BadInput, ConfigError, NotFound, RetrainError, Unavailable
from retrain.storage.digests import content_digest
from tasks.resources import Resources

logger = logging.getLogger(__name__)

_WITHOUT_MODEL = {"random", "all"}
_FLUSH_S = 5.0
_BLOCK_S = 120.0
_PROGRESS = "collect-progress.sqlite"
_DAY_S = 86_400.0


@dataclass(frozen=True)
class CollectOptions:
    """What a person asked for; None: as configured.

    Attributes:
        sources: see `sources.open_source`.
        storage: folder of spool, images and index, instead of the configured store.
        model: see `load_model`; None: the champion where the strategy looks at predictions, otherwise no model.
        camera: name of the camera of all frames.
        again: offer what was offered before, too.
    """

    sources: tuple[str, ...]
    storage: Path | None = None
    strategy: str | None = None
    threshold: float | None = None
    sample_rate: float | None = None
    model: str | None = None
    camera: str | None = None
    device: str = "cpu"
    again: bool = False


def run_collect(
    options: CollectOptions,
    resources: Resources,
    console: Console,
    stdin: Iterable[str] = (),
) -> Tally:
    """Offer every frame that was not offered before, and print what became of them.

    Stopped anywhere, it goes on with the next call: a frame counts as done once it was taken or left.

    Raises:
        NotFound, BadInput: a source or the model cannot be used, or no frame of any source can.
        ConfigError: the strategy needs what is not there.
        Unavailable: the store has no room, or a stream ended.
    """
    place = collection_place(resources, options.storage, _changes(options))
    name = _model_name(options, resources, place.config.data_collection)
    sources = [
        open_source(text, camera=options.camera, leave_out=place.home, stdin=stdin)
        for text in options.sources
    ]
    model = None if name is None else load_model(resources, name, options.device)
    if options.storage is None and model is not None:
        _check_classes(model, resources.config)
    place.home.mkdir(parents=True, exist_ok=True)
    tally = _collect(_ready(place, model), sources, model, console, again=options.again)
    if not tally.seen:
        console.print("No frame came.")
    if tally.offered == tally.done_before == 0 and tally.first_unusable:
        raise BadInput(f"No frame could be used. The first: {tally.first_unusable}.")
    return tally


def _changes(options: CollectOptions) -> dict[str, Any]:
    asked = {
        "strategy": options.strategy,
        "confidence_threshold": options.threshold,
        "sample_rate": options.sample_rate,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _model_name(options: CollectOptions, resources: Resources, collection: DataCollection) -> str | None:
    """What to predict with: the one that was named, else the champion for a strategy that looks at predictions."""
    check_known("collection strategy", collection.strategy, get_args(CollectionStrategy))
    members = _strategies(collection)
    if "shadow_disagreement" in members:
        raise ConfigError(
            "shadow_disagreement needs the predictions of a second model, which only a serving process has."
        )
    if options.model is not None or members <= _WITHOUT_MODEL:
        return options.model
    try:
        resources.routes.get(resources.model)
    except NotFound as error:
        raise ConfigError(
            f"The strategy {collection.strategy!r} looks at predictions, and {resources.model!r} has no champion: name "
            f"a model with --model, or take one of {', '.join(sorted(_WITHOUT_MODEL))}."
        ) from error
    return CHAMPION


def _check_classes(model: LoadedModel, config: RetrainConfig) -> None:
    if model.classes != config.model.classes:
        raise ConfigError(
            f"The model knows the classes {', '.join(model.classes)}, but {config.model.name!r} is configured with "
            f"{', '.join(config.model.classes)}: set model.classes, or keep the samples apart with --storage."
        )


def _strategies(collection: DataCollection) -> set[str]:
    return set(collection.settings.weights) if collection.strategy == "combined" else {collection.strategy}


def _ready(place: Resources, model: LoadedModel | None) -> Resources:
    """With the model's classes; and with a spool that waits instead of dropping, as no production waits for us."""
    collection = place.config.data_collection
    # A frame noted as done must not get lost in a power cut, so it is synced first.
    spool = collection.spool.model_copy(update={"when_full": "block", "block_s": _BLOCK_S, "sync": True})
    section = collection.model_copy(update={"spool": spool, "flush_s": min(collection.flush_s, _FLUSH_S)})
    config = place.config.model_copy(update={"data_collection": section})
    if model is not None:
        named = config.model.model_copy(update={"classes": model.classes})
        config = config.model_copy(update={"model": named})
    return Resources(config, place.home)


def _collect(
    place: Resources, sources: list[Source], model: LoadedModel | None, console: Console, *, again: bool
) -> Tally:
    tally, since_ns = Tally(), time.time_ns()
    service = place.collection_service()
    try:
        with (
            Progress(place.home / _PROGRESS, _pass_name(place.config, model)) as progress,
            progress_display(console, _count(sources)) as show,
        ):
            for source in sources if again else ():
                source.offer_again(progress)
            offering = _Offering(service, model, place.config.data_collection)
            for item in chain.from_iterable(source.frames(progress) for source in sources):
                offering.take(item, tally)
                show(tally)
    except KeyboardInterrupt:
        tally.stopped = True
    finally:
        service.close()
        tally.outcomes = _outcomes(place, since_ns)
        if tally.seen:
            show_report(tally, place.home, console, place.config.data_collection.retention.max_age_days)
        place.state.close()
    return tally


class _Offering:
    """Predicts a frame, offers it, and counts what was decided."""

    def __init__(
        self, service: DataCollectionService, model: LoadedModel | None, collection: DataCollection
    ) -> None:
        self._service, self._model, self._strategy = service, model, collection.strategy
        self._flip = "flip_disagreement" in _strategies(collection)
        age_days = collection.retention.max_age_days
        self._expired_before = None if age_days is None else time.time() - age_days * _DAY_S

    def take(self, item: Item, tally: Tally) -> None:
        """Raises: Unavailable: the frame was neither taken nor left, so it must not count as done."""
        match item:
            case DoneBefore(frames):
                tally.done_before += frames
            case Unusable(name, reason):
                tally.unusable_because(name, reason)
            case SourceFrame():
                try:
                    more = self._predicted(item)
                except BadInput as error:
                    tally.unusable_because(item.name, str(error))
                else:
                    self._offer(item, more, tally)

    def _predicted(self, frame: SourceFrame) -> dict[str, Any]:
        metadata = {
            "camera_id": frame.camera,
            "recording": frame.recording,
            "captured_at": frame.captured_at,
            "source": frame.name,
        }
        if self._model is None:
            return {"metadata": {**metadata, UNPREDICTED: True}}
        pixels = frame.pixels()
        height, width = pixels.shape[:2]
        predicted = {
            "prediction": self._model.predict(pixels),
            "release": self._model.release,
            "metadata": {**metadata, "width": width, "height": height},
        }
        if self._flip:
            predicted["flipped"] = _on_mirrored(self._model, pixels)
        return predicted

    def _offer(self, frame: SourceFrame, more: dict[str, Any], tally: Tally) -> None:
        decision = self._service.collect(image=frame.image, order="BGR", **more)
        outcome, _, reason = decision.reason.partition(": ")
        if outcome == "dropped":
            raise Unavailable(f"{frame.name} was not taken: {reason} The same command goes on from here.")
        tally.offered += 1
        if decision.taken:
            arm = AUDIT if decision.reason == AUDIT else self._strategy
            tally.taken[arm] += 1
            if self._expired_before is not None and frame.captured_at < self._expired_before:
                tally.expired += 1
        elif outcome == "rejected":
            tally.rejected[reason] += 1
        else:
            tally.skipped[decision.reason] += 1


def _on_mirrored(model: LoadedModel, pixels: NDArray[np.uint8]) -> Detections:
    """What the model sees in the mirrored image, in the pixels of the image itself."""
    seen = model.predict(np.ascontiguousarray(pixels[:, ::-1]))
    return Detections.of(mirrored_back(seen.boxes.tolist(), pixels.shape[1]), seen.classes, seen.scores)


def _count(sources: list[Source]) -> int | None:
    counts = [source.count() for source in sources]
    return None if None in counts else sum(count or 0 for count in counts)


def _pass_name(config: RetrainConfig, model: LoadedModel | None) -> str:
    """Whatever changes the answer to "is this frame wanted?" makes another pass."""
    collection = config.data_collection.model_dump(
        mode="json",
        include={"strategy", "confidence_threshold", "sample_rate", "frame_confidence", "settings"},
    )
    names = {**collection, "model": config.model.name, "weights": model and model.identity}
    return content_digest(json.dumps(names, sort_keys=True).encode())


def _outcomes(place: Resources, since_ns: int) -> Counter[tuple[str, str]] | None:
    try:
        with place.state.read() as connection:
            return draws_of_process(connection, os.getpid(), since_ns)
    except RetrainError as error:
        logger.warning("What became of the taken frames is not known: %s", error)
        return None
