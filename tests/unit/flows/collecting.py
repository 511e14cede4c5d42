"""What tests of `retrain collect` share: a model that is no network, and what was stored."""

import numpy as np
from sqlalchemy import select

from flows.collect_place import collection_place
from retrain.boxes import Detections
from retrain.data_collection.sample import DataSample
from retrain.storage.schema import samples

CLASSES = ("dent", "scratch")
DIGEST = "d" * 64


class FakeModel:
    """Sees one box in every image, as sure as `score` says; `on_call` is told how many images it saw."""

    def __init__(self, score=0.5, on_call=lambda _calls: None):
        self.score, self.on_call, self.calls = score, on_call, 0

    def predict(self, image):
        self.calls += 1
        self.on_call(self.calls)
        assert image.dtype == np.uint8
        score = self.score(image) if callable(self.score) else self.score
        return Detections.of([[1, 1, 5, 5]], [1], [score]) if score else Detections.empty()


def rows(resources, folder, table=samples):
    place = collection_place(resources, folder)
    with place.state.read() as connection:
        found = connection.execute(select(table)).all()
    place.state.close()
    return found


def stored(resources, folder):
    return {row.id: DataSample.from_row(row) for row in rows(resources, folder)}


def interrupt(at):
    def stop(calls):
        if calls == at:
            raise KeyboardInterrupt

    return stop
