"""Labels of a cycle's samples: what the model may decide alone, what a person decides, and what stays out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import Connection, insert, select

from retrain.annotation.pipeline import AutoLabeler, Image
from retrain.boxes import Annotations, Detections
from retrain.storage.schema import annotations
from retrain.storage.state import StateStore

Source = Literal["auto", "human"]
NO_REVIEWER = "needs review and there is no reviewer"
DECLINED = "the reviewer declined"

Guard = Callable[[Connection], None]
"""Raises unless the caller may still write; run inside the transaction (`Lease.check`)."""


class Reviewable(Protocol):
    """What is known of a sample under review; a `DataSample` is one."""

    @property
    def id(self) -> str: ...
    @property
    def camera(self) -> str: ...
    @property
    def recording(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


S = TypeVar("S", bound=Reviewable)


class Reviewer(Protocol):
    """Somebody who looks at a frame and says what is true."""

    @property
    def name(self) -> str: ...

    def review(self, sample: Any, image: Image, proposal: Detections) -> Annotations | None:
        """The true boxes, starting from the model's proposal; None to leave the sample out."""
        ...


@dataclass(frozen=True)
class StoredAnnotation:
    sample_id: str
    source: Source
    annotator: str
    annotations: Annotations
    made_at: float


@dataclass(frozen=True)
class AnnotationReport:
    """Sample ids of a batch by what happened to them."""

    auto: tuple[str, ...]
    human: tuple[str, ...]
    left_out: Mapping[str, str]
    """With the reason. These have no stored annotation."""


class AnnotationStore:
    """Annotations per cycle. The first one stored for a sample stays."""

    def __init__(self, state: StateStore) -> None:
        self._state = state

    def save(
        self,
        cycle_id: str,
        sample_id: str,
        boxes: Annotations,
        *,
        source: Source,
        annotator: str,
        now: float,
        guard: Guard | None = None,
    ) -> bool:
        """Store unless the cycle already has an annotation for this sample; False if it had.

        The first wins so that a cycle that is done again trains on what it saw the first time.
        """
        mine = (annotations.c.cycle_id == cycle_id, annotations.c.sample_id == sample_id)
        with self._state.write() as connection:
            if guard is not None:
                guard(connection)
            if connection.execute(select(annotations.c.sample_id).where(*mine)).one_or_none():
                return False
            connection.execute(
                insert(annotations).values(
                    cycle_id=cycle_id,
                    sample_id=sample_id,
                    source=source,
                    annotator=annotator,
                    objects=boxes.to_json(),
                    made_at=now,
                )
            )
        return True

    def load(self, cycle_id: str) -> dict[str, StoredAnnotation]:
        """The cycle's annotations by sample id, in id order."""
        query = (
            select(annotations).where(annotations.c.cycle_id == cycle_id).order_by(annotations.c.sample_id)
        )
        with self._state.read() as connection:
            return {
                row.sample_id: StoredAnnotation(
                    row.sample_id, row.source, row.annotator, Annotations.from_json(row.objects), row.made_at
                )
                for row in connection.execute(query)
            }


def annotate_batch(
    cycle_id: str,
    batch: Sequence[tuple[S, Image]],
    labeler: AutoLabeler,
    store: AnnotationStore,
    *,
    annotator: str,
    clock: Callable[[], float],
    reviewer: Reviewer | None = None,
    auto_accept: bool = True,
    guard: Guard | None = None,
) -> AnnotationReport:
    """Label a batch of a cycle's samples; those already labelled in this cycle are not labelled again.

    A frame that needs review is never labelled by the model: without a reviewer it is left out and reported.

    Args:
        annotator: release digest of the model behind `labeler`.
        auto_accept: off sends every frame to the reviewer.
    """
    done = store.load(cycle_id)
    pending = [(sample, image) for sample, image in batch if sample.id not in done]
    labels = labeler.label_batch([image for _, image in pending]) if pending else []
    left_out: dict[str, str] = {}
    for (sample, image), label in zip(pending, labels, strict=True):
        if auto_accept and not label.needs_review:
            store.save(
                cycle_id,
                sample.id,
                label.annotations,
                source="auto",
                annotator=annotator,
                now=clock(),
                guard=guard,
            )
        elif reviewer is None:
            left_out[sample.id] = NO_REVIEWER
        elif (answer := reviewer.review(sample, image, label.proposal)) is None:
            left_out[sample.id] = DECLINED
        else:
            store.save(
                cycle_id, sample.id, answer, source="human", annotator=reviewer.name, now=clock(), guard=guard
            )
    return _report([sample.id for sample, _ in batch], store.load(cycle_id), left_out)


def _report(
    ids: Sequence[str], stored: Mapping[str, StoredAnnotation], left_out: Mapping[str, str]
) -> AnnotationReport:
    def labelled_by(source: Source) -> tuple[str, ...]:
        return tuple(one for one in ids if one in stored and stored[one].source == source)

    return AnnotationReport(labelled_by("auto"), labelled_by("human"), left_out)
