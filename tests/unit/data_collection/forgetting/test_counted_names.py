import json
import time

import msgspec
import pytest

from retrain.data_collection.forgetting.counted_names import hide_names
from retrain.data_collection.statistics.counter_files import FOLDED, fold, read_published
from retrain.data_collection.statistics.counters import BINS, SUFFIX, Counts, OutcomeCounters
from retrain.errors import BadInput
from tests.unit.data_collection.erasing import files_with

HOUR = 3600.0
DAY = 24 * HOUR
NO_PROCESS = 2**22 + 1
"""Above the highest process id of Linux."""


def publish(folder, name, at, **frames):
    counts = Counts(0.0, at, {camera: {"taken": count} for camera, count in frames.items()}, [0] * (BINS + 1))
    (folder / f"{NO_PROCESS}-{name}{SUFFIX}").write_bytes(msgspec.json.encode(counts))


def outcomes(folder):
    return read_published(folder, time.time()).counts.outcomes


def test_the_name_goes_from_counts_of_ended_and_folded_processes_and_no_frame_does(tmp_path):
    now = time.time()
    publish(tmp_path, "long-ago", now - 3 * DAY, gate=1, yard=10)
    fold(tmp_path, now - 2 * DAY)
    publish(tmp_path, "yesterday", now - 5 * HOUR, gate=2)
    fold(tmp_path, now)
    publish(tmp_path, "lately", now - 60, gate=4, yard=20)
    folded = json.loads((tmp_path / FOLDED).read_bytes())
    assert folded["base"]["outcomes"].keys() == {"gate", "yard"}
    assert folded["parts"]

    live = hide_names(tmp_path, {"gate"})

    assert live == 0
    assert outcomes(tmp_path) == {"(forgotten)": {"taken": 7}, "yard": {"taken": 30}}
    assert files_with(tmp_path, b"gate") == []


def test_a_running_process_is_said_to_publish_the_name_again(tmp_path):
    counters = OutcomeCounters()
    counters.count("gate", "taken", 0.5)
    counters.publish(tmp_path)

    assert hide_names(tmp_path, {"gate"}) == 1
    assert outcomes(tmp_path) == {"(forgotten)": {"taken": 1}}
    assert hide_names(tmp_path, {"yard"}) == 0


def test_names_longer_than_the_index_keeps_are_found(tmp_path):
    publish(tmp_path, "a", time.time(), **{"x" * 250: 1})

    hide_names(tmp_path, {"x" * 200})

    assert outcomes(tmp_path) == {"(forgotten)": {"taken": 1}}


def test_a_damaged_file_is_said_after_the_others_were_changed(tmp_path):
    (tmp_path / f"1-a{SUFFIX}").write_bytes(b"{")
    publish(tmp_path, "b", time.time(), gate=1)

    with pytest.raises(BadInput, match=r"1-a\.counts are damaged and may name the camera"):
        hide_names(tmp_path, {"gate"})

    assert files_with(tmp_path, b"gate") == []


def test_where_nobody_collected_nothing_is_made(tmp_path):
    assert hide_names(tmp_path / "spool", {"gate"}) == 0
    assert not (tmp_path / "spool").exists()
