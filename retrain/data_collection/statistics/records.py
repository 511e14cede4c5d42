"""What the state's tables say about collection, in the few numbers that a monitor shows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select, true

from retrain.data_collection.frame import SCORE_FLOOR
from retrain.storage.schema import draws, packs, samples

UNPREDICTED = "unpredicted"
"""Key in a sample's metadata, true where no model looked at the frame: it has no boxes, but nobody looked for any."""


@dataclass(frozen=True)
class RecentDraw:
    """A taken frame; `classes` are those with a box of at least `SCORE_FLOOR`, by index."""

    strategy: str
    outcome: str
    inclusion_probability: float
    audit: bool
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Rejection:
    """A frame that was taken and turned out to be unusable."""

    at: float
    camera: str
    detail: str


@dataclass(frozen=True)
class Stored:
    """What the store holds.

    Attributes:
        samples: of the model.
        predicted: those that a model looked at, and `without_detections` those in which it saw nothing.
        pack_images, pack_bytes: of all packs, whichever model.
    """

    samples: int
    predicted: int
    without_detections: int
    pack_images: int
    pack_bytes: int

    @property
    def bytes_per_sample(self) -> float | None:
        return self.pack_bytes / self.pack_images if self.pack_images else None

    @property
    def zero_detection_share(self) -> float | None:
        return self.without_detections / self.predicted if self.predicted else None


def draw_counts(connection: Connection, model: str | None) -> dict[str, dict[str, int]]:
    """Strategy -> outcome -> draws."""
    query = select(draws.c.strategy, draws.c.outcome, func.count()).group_by(
        draws.c.strategy, draws.c.outcome
    )
    found: dict[str, dict[str, int]] = {}
    for strategy, outcome, count in connection.execute(_of_draws(query, model)):
        found.setdefault(strategy, {})[outcome] = count
    return found


def recent_draws(connection: Connection, model: str | None, limit: int) -> list[RecentDraw]:
    """The last ones stored."""
    columns = (draws.c.strategy, draws.c.outcome, draws.c.inclusion_probability, draws.c.audit)
    last = _of_draws(select(*columns, draws.c.model, draws.c.sample_id), model)
    drawn = last.order_by(draws.c.stored_at.desc()).limit(limit).subquery()
    of_draw = (samples.c.model == drawn.c.model) & (samples.c.id == drawn.c.sample_id)
    query = select(drawn, samples.c.prediction).outerjoin(samples, of_draw)
    return [
        RecentDraw(
            row.strategy, row.outcome, row.inclusion_probability, bool(row.audit), _shown(row.prediction)
        )
        for row in connection.execute(query)
    ]


def last_rejections(connection: Connection, model: str | None, limit: int) -> tuple[Rejection, ...]:
    query = _of_draws(select(draws.c.stored_at, draws.c.camera, draws.c.detail), model)
    query = query.where(draws.c.outcome == "rejected").order_by(draws.c.stored_at.desc()).limit(limit)
    return tuple(Rejection(row.stored_at, row.camera, row.detail) for row in connection.execute(query))


def stored(connection: Connection, model: str | None) -> Stored:
    unpredicted = samples.c.metadata[UNPREDICTED].as_boolean().is_(true())
    saw_nothing = samples.c.confidence.is_(None)
    counts = select(
        func.count(),
        func.count().filter(saw_nothing),
        func.count().filter(saw_nothing & unpredicted),
    ).select_from(samples)
    if model is not None:
        counts = counts.where(samples.c.model == model)
    total, nothing, not_looked = connection.execute(counts).one()
    sizes = select(func.coalesce(func.sum(packs.c.images), 0), func.coalesce(func.sum(packs.c.bytes), 0))
    images, size = connection.execute(sizes.where(packs.c.state == "stored")).one()
    return Stored(total, total - not_looked, nothing - not_looked, int(images), int(size))


def shown_classes(connection: Connection, model: str) -> tuple[int, Counter[int]]:
    """The model's stored samples, and how many of them show each class, by index; about 10 µs a sample."""
    query = select(samples.c.prediction).where(samples.c.model == model)
    frames, found = 0, Counter[int]()
    for prediction in connection.execute(query.execution_options(yield_per=1000)).scalars():
        frames += 1
        found.update(_shown(prediction))
    return frames, found


def _of_draws(query: Select[Any], model: str | None) -> Select[Any]:
    return query if model is None else query.where(draws.c.model == model)


def _shown(prediction: Mapping[str, Any] | None) -> tuple[int, ...]:
    if prediction is None:
        return ()
    pairs = zip(prediction["classes"], prediction["scores"], strict=True)
    return tuple(sorted({label for label, score in pairs if score >= SCORE_FLOOR}))


def draws_of_process(connection: Connection, process_id: int, since_ns: int) -> Counter[tuple[str, str]]:
    """What became of the frames that one process of this machine took: (outcome, detail) -> frames.

    Args:
        since_ns: when the process began to take them, seconds since the epoch times 10^9.
    """
    # The id of a draw names its segment, which names the time it was begun and the process that wrote it.
    mine = draws.c.id.like(f"{'_' * 20}-{process_id}-%")
    query = select(draws.c.outcome, draws.c.detail, func.count()).group_by(draws.c.outcome, draws.c.detail)
    rows = connection.execute(query.where(draws.c.id >= f"{since_ns:020d}", mine))
    return Counter({(outcome, detail): count for outcome, detail, count in rows})
