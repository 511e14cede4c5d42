"""How good a model was in production over a window of time, from what was collected of it and labelled by people.

Who counts: a frame that was stored, with the chance that it came to be stored, and a frame with the bytes of a stored
one, with the chance that it was taken: a model says the same of the same bytes, so it needs no label of its own. A
near-duplicate does not count, because another picture's prediction and label are not its own. Frames like it are
represented by those that the audit arm drew and stored, whose chance is that arm's alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from retrain.boxes import Annotations, Detections
from retrain.data_collection.estimator import Estimates, LabelledFrame, estimate, match_counts
from retrain.data_collection.forgetting.retention import EXPIRED
from retrain.data_collection.store.samples import FORGOTTEN
from retrain.errors import BadInput
from retrain.storage.schema import annotations, cycles, draws, samples
from retrain.storage.state import StateStore

_SHOWN = ("stored", "duplicate")
"""Outcomes of the draws that count."""


@dataclass(frozen=True)
class ProductionQuality:
    """What the model did over the window.

    Attributes:
        offered: frames of the window, where the caller knows it.
        left_out: taken frames that neither count nor are represented, by outcome: rejected (no readable image),
            forgotten. The estimates are of the others.
        unlabelled: share of the window that the kept frames without a person's label stand for.
    """

    estimates: Estimates
    offered: int | None
    left_out: Mapping[str, int]
    unlabelled: float


@dataclass(frozen=True)
class _Window:
    """The draws of a window, and by sample id the stored samples and what people said of them."""

    draws: Sequence[Row[Any]]
    samples: Mapping[str, Row[Any]]
    labels: Mapping[str, Annotations]


@dataclass(frozen=True)
class _Kept:
    """A frame that counts; `counts` are None where nothing tells what is true or what was predicted."""

    sample_id: str
    probability: float
    counts: tuple[int, int, int] | None


def estimate_production(
    state: StateStore,
    model: str,
    since: float,
    until: float,
    *,
    audit_rate: float,
    release: str | None = None,
    offered: int | None = None,
    max_unlabelled: float = 0.0,
    iou: float = 0.5,
    score: float = 0.25,
    level: float = 0.95,
) -> ProductionQuality:
    """Precision, recall, F1 and objects per frame of the frames that a model saw, from their stored part.

    Everything taken must be drained. Labels by the model itself do not count, they agree with it; so a person must see
    every sample (`annotation.auto_label: false`), or those labelled are the ones that the model was unsure of.

    Args:
        since, until: frames captured from `since` up to before `until`, seconds since the epoch.
        audit_rate: that of the collection, `data_collection.audit_rate`; if it changed, the smallest of the window.
        release: only frames that this release predicted.
        offered: frames of the window, where known, to notice when some are missing.
        max_unlabelled: largest share of the window that may be without a person's label; it is then taken to be like
            the rest, which nobody knows.
        iou, score: when a box is right, and from which score it is shown, see `match_counts`.

    Raises:
        BadInput: too much is not labelled, retention deleted some of it, or what `estimate` raises.
    """
    with state.read() as connection:
        window = _read(connection, model, since, until, release)
    outcomes = Counter(draw.outcome for draw in window.draws)
    if deleted := outcomes[EXPIRED]:
        raise BadInput(
            f"Retention deleted the pictures of {deleted} frames of this window. Choose a later one or keep more."
        )
    kept = _kept(window, iou, score)
    missing = [one for one in kept if one.counts is None]
    unlabelled = _frames(missing) / _frames(kept) if kept else 0.0
    if unlabelled > max_unlabelled:
        raise BadInput(
            f"{len(missing)} of {len(kept)} kept frames, {100 * unlabelled:.1f} % of the window, have no label by a "
            f"person or repeat what another release predicted, as those of sample {missing[0].sample_id}. Label them, "
            "choose another window or one release, or allow it with max_unlabelled."
        )
    labelled = [LabelledFrame(*one.counts, one.probability) for one in kept if one.counts is not None]
    left_out = {outcome: outcomes[outcome] for outcome in ("rejected", FORGOTTEN) if outcomes[outcome]}
    population = None if missing or left_out else offered
    estimates = estimate(labelled, audit_rate, level=level, population=population)
    return ProductionQuality(estimates, offered, left_out, unlabelled)


def _kept(window: _Window, iou: float, score: float) -> list[_Kept]:
    counts = {
        name: match_counts(Detections.from_json(window.samples[name].prediction), label, iou, score)
        for name, label in window.labels.items()
    }
    kept = []
    for draw in window.draws:
        if draw.outcome in _SHOWN:
            sample = window.samples[draw.sample_id]
            probability = (sample if draw.outcome == "stored" else draw).inclusion_probability
            # What one release said of these bytes is not known of another.
            known = counts.get(sample.id) if draw.release == sample.release else None
            kept.append(_Kept(sample.id, probability, known))
    return kept


def _frames(kept: Sequence[_Kept]) -> float:
    """How many frames of the window they stand for."""
    return sum(1 / one.probability for one in kept)


def _read(connection: Connection, model: str, since: float, until: float, release: str | None) -> _Window:
    within = [draws.c.model == model, draws.c.captured_at >= since, draws.c.captured_at < until]
    if release is not None:
        within.append(draws.c.release == release)
    columns = (draws.c.outcome, draws.c.sample_id, draws.c.release, draws.c.inclusion_probability)
    drawn = connection.execute(select(*columns).where(*within)).all()
    shown = select(draws.c.sample_id).where(*within, draws.c.outcome.in_(_SHOWN))
    stored = select(samples.c.id, samples.c.release, samples.c.inclusion_probability, samples.c.prediction)
    labelled = (
        select(annotations.c.sample_id, annotations.c.objects)
        .join(cycles, cycles.c.id == annotations.c.cycle_id)
        .where(annotations.c.source == "human", cycles.c.model == model, annotations.c.sample_id.in_(shown))
        # Of several labels the last one made counts.
        .order_by(annotations.c.made_at)
    )
    return _Window(
        drawn,
        {
            row.id: row
            for row in connection.execute(stored.where(samples.c.model == model, samples.c.id.in_(shown)))
        },
        {row.sample_id: Annotations.from_json(row.objects) for row in connection.execute(labelled)},
    )
