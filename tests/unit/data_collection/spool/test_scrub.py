import pytest

from retrain.data_collection.queue import DataCollectionQueue
from retrain.data_collection.spool.drain_pass import hand_on
from retrain.data_collection.spool.format import SEGMENT_MAGIC
from retrain.data_collection.spool.reader import segments
from retrain.data_collection.spool.scrub import scrub
from retrain.data_collection.store.intake import DrainReport
from retrain.errors import Unavailable


class Drains:
    flush_s = 1.0

    def __init__(self, spool):
        self.spool, self.taken = spool, []

    def drain(self, stop=None, *, wait=False):
        report = DrainReport()
        hand_on(self.spool, lambda records: self.taken.extend(one.body for one in records), report)
        return report


def test_what_was_read_is_cleared_and_the_segment_goes_on(tmp_path):
    queue, drainer = DataCollectionQueue(tmp_path), Drains(tmp_path)
    queue.append(b"secret", b"picture")

    scrub(drainer)
    [segment] = segments(tmp_path)
    data = segment.path.read_bytes()
    assert b"secret" not in data
    assert b"picture" not in data
    assert data.startswith(SEGMENT_MAGIC)

    queue.append(b"next")
    scrub(drainer)
    assert drainer.taken == [b"secret", b"next"]


def test_a_segment_that_cannot_be_cleared_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("retrain.data_collection.spool.scrub._LOCKED_S", 0.05)
    queue, drainer = DataCollectionQueue(tmp_path), Drains(tmp_path)
    queue.append(b"secret")
    drainer.drain()
    [segment] = segments(tmp_path)
    assert segment.lock()
    monkeypatch.setattr(drainer, "drain", lambda wait: DrainReport())

    with pytest.raises(Unavailable, match=r"not cleared: .* is locked by another process"):
        scrub(drainer)
