"""Which stored sample a new picture repeats, kept in step with the index that all drainers share."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import select

from retrain.duplicates.near_duplicates import Match, NearDuplicateRule, NearDuplicates
from retrain.duplicates.perceptual_hash import PerceptualHash
from retrain.storage.schema import likenesses
from retrain.storage.state import StateStore

Scope = Literal["camera", "global"]


class LikenessIndex:
    """Near-duplicates among the newest samples of each model. For one thread at a time."""

    def __init__(
        self,
        state: StateStore,
        rule: NearDuplicateRule | None = None,
        scope: Scope = "camera",
        capacity: int = 100_000,
    ) -> None:
        """Set up; the index is read when it is first needed.

        Args:
            capacity: newest samples of a model that are compared with.
        """
        self._state, self._capacity = state, capacity
        self._options: Mapping[str, Any] = {"rule": rule, "scope": scope, "capacity": capacity}
        self._of_model: dict[str, NearDuplicates] = {}
        self._read_until: dict[str, int] = {}

    def refresh(self) -> None:
        """Take in what other processes have stored since."""
        for model in self._of_model:
            for sample, camera, picture in self._rows(model):
                if sample not in self._of_model[model]:
                    self._of_model[model].add(sample, PerceptualHash.from_bytes(picture), camera)

    def find(self, model: str, picture: PerceptualHash, camera: str) -> Match | None:
        """The stored sample it repeats."""
        return self._index(model).find(picture, camera)

    def add(self, model: str, sample: str, picture: PerceptualHash, camera: str) -> None:
        """From now on others are compared with it, too."""
        if sample not in self._index(model):
            self._index(model).add(sample, picture, camera)

    def forget(self, model: str, sample: str) -> None:
        """Compare nothing with it any more: it is not stored, or not stored any longer."""
        self._index(model).remove(sample)

    def _index(self, model: str) -> NearDuplicates:
        if model not in self._of_model:
            self._of_model[model] = NearDuplicates.from_rows(self._rows(model), **self._options)
        return self._of_model[model]

    def _rows(self, model: str) -> Sequence[tuple[str, str, bytes]]:
        since = self._read_until.get(model, -1)
        columns = (likenesses.c.seq, likenesses.c.sample_id, likenesses.c.camera, likenesses.c.picture)
        query = (
            select(*columns)
            .where(likenesses.c.model == model, likenesses.c.seq > since)
            .order_by(likenesses.c.seq.desc())
            .limit(self._capacity)
        )
        with self._state.read() as connection:
            rows = connection.execute(query).all()[::-1]
        if rows:
            self._read_until[model] = rows[-1].seq
        return [(row.sample_id, row.camera, row.picture) for row in rows]
