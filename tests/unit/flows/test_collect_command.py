import io
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
from rich.console import Console
from sqlalchemy import select

from flows.collect_command import CollectOptions, run_collect
from flows.collect_drain import drain_once
from flows.collect_model import find_model
from flows.collect_place import collection_place, existing_place
from flows.collect_report import Tally, progress_display
from flows.collect_status import monitor_of
from retrain.data_collection.queue import DataCollectionQueue
from retrain.errors import BadInput, ConfigError, NotFound, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.schema import draws, samples
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.videos import write_video
from tests.unit.flows.collecting import DIGEST, FakeModel, interrupt, rows, stored


@pytest.fixture
def collect(resources, tmp_path, loads):
    """Runs the command into the folder `collected`; returns the tally and the printed lines."""

    def run(*sources, stdin=(), **options):
        file = io.StringIO()
        asked = {"storage": tmp_path / "collected", "model": "champion", **options}
        console = Console(file=file, width=200)
        try:
            tally = run_collect(
                CollectOptions(tuple(map(str, sources)), **asked), resources, console, stdin=stdin
            )
        finally:
            run.printed = [" ".join(line.split()) for line in file.getvalue().splitlines()]
        return tally

    return run


def test_frames_are_predicted_offered_and_stored_with_what_is_known_about_them(
    collect, resources, frames, tmp_path
):
    tally = collect(frames)

    found = stored(resources, tmp_path / "collected")
    assert set(found) == {content_digest(png_bytes(number)) for number in range(6)}
    sample = found[content_digest(png_bytes(3))]
    assert (sample.model, sample.release, sample.strategy) == ("m", DIGEST, "uncertainty")
    assert (sample.camera, sample.recording, sample.confidence) == ("frames", str(frames), 0.5)
    assert sample.prediction.classes.tolist() == [1]
    assert sample.metadata["source"] == f"{frames}/3.png"
    assert (tally.offered, tally.by_outcome()) == (6, {"stored": 6})
    assert collect.printed == ["frames why", "offered 6", "taken 6 uncertainty", "stored 6"]


def test_the_report_says_what_was_skipped_rejected_unusable_and_twice_there(collect, loads, frames):
    loads(FakeModel(lambda image: 0.9 if image[0, 0, 0] > 127 else 0.5))
    certain = sum(pixel(number) > 127 for number in range(6))
    (frames / "again.png").write_bytes(png_bytes(next(n for n in range(6) if pixel(n) <= 127)))
    (frames / "torn.png").write_bytes(png_bytes(1)[:-60])
    (frames / "none.png").write_bytes(b"hello")

    collect(frames)

    assert collect.printed[:4] == [
        "frames why",
        "offered 7",
        f"taken {7 - certain} uncertainty",
        f"skipped {certain} confidence >= 0.7",
    ]
    assert collect.printed[4].startswith("unusable 1 ")
    assert "unusable 1 is not an image" in collect.printed
    assert "duplicate 1 their picture was stored already" in collect.printed
    assert collect.printed[-1] == f"stored {6 - certain}"


def pixel(number):
    import PIL.Image

    return np.asarray(PIL.Image.open(io.BytesIO(png_bytes(number))))[0, 0, 0]


def test_without_a_model_frames_have_no_prediction_and_are_marked_as_not_looked_at(
    collect, resources, frames, tmp_path
):
    collect(frames, model=None, strategy="random", sample_rate=1.0)

    place = collection_place(resources, tmp_path / "collected")
    snapshot = monitor_of(place).snapshot()
    place.state.close()
    assert (snapshot.stored.samples, snapshot.stored.predicted) == (6, 0)
    assert snapshot.stored.zero_detection_share is None


def test_without_a_model_what_is_no_image_is_rejected_when_it_is_stored(collect, frames):
    (frames / "none.png").write_bytes(b"hello")

    tally = collect(frames, model=None, strategy="all")

    assert tally.by_outcome() == {"stored": 6, "rejected": 1}
    assert "rejected 1 The image (5 bytes) is not an image." in collect.printed


def test_the_next_run_leaves_out_what_was_offered_and_takes_what_is_new(collect, frames):
    collect(frames)
    (frames / "new.png").write_bytes(png_bytes(77))

    tally = collect(frames)

    assert (tally.offered, tally.done_before) == (1, 6)
    assert "left out 6 offered by an earlier run; --again offers them again" in collect.printed


@pytest.mark.parametrize("change", [{"threshold": 0.4}, {"strategy": "all"}, {"again": True}])
def test_another_question_or_again_offers_every_frame_anew(collect, frames, change):
    collect(frames)

    assert collect(frames, **change).offered == 6


def test_one_folder_again_does_not_offer_another_folder_again(collect, frames, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "7.png").write_bytes(png_bytes(7))
    collect(frames, other)

    assert collect(frames, again=True).offered == 6
    tally = collect(frames, other)
    assert (tally.offered, tally.done_before) == (0, 7)


@pytest.mark.parametrize(("max_age_days", "expired"), [(30, 2), (None, 0)])
def test_frames_that_retention_will_delete_are_said(
    collect, resources, frames, tmp_path, max_age_days, expired
):
    for number in (0, 1):
        os.utime(frames / f"{number}.png", (1000, 1000))
    section = resources.config.data_collection
    retention = section.retention.model_copy(update={"max_age_days": max_age_days})
    resources.config = resources.config.model_copy(
        update={"data_collection": section.model_copy(update={"retention": retention})}
    )

    tally = collect(frames)

    assert tally.expired == expired
    warned = "2 taken frames are older than data_collection.retention.max_age_days (30)"
    assert any(line.startswith(warned) for line in collect.printed) == bool(expired)


def test_another_model_is_another_question(collect, loads, frames):
    collect(frames)
    loads(FakeModel(), release="e" * 64)

    assert collect(frames).offered == 6


@pytest.mark.parametrize("source", ["folder", "video"])
def test_ctrl_c_in_the_middle_ends_well_and_the_next_run_goes_on_there(
    collect, resources, loads, frames, tmp_path, source
):
    given = frames if source == "folder" else write_video(tmp_path / "v.avi", 6)
    loads(FakeModel(on_call=interrupt(4)))

    first = collect(given)
    said = collect.printed
    loads(FakeModel())
    second = collect(given)

    assert (first.stopped, first.offered, second.offered, second.done_before) == (True, 3, 3, 3)
    assert "Stopped. The same command goes on from here." in said
    assert len(stored(resources, tmp_path / "collected")) == 6
    assert len(rows(resources, tmp_path / "collected", draws)) == 6


@pytest.mark.parametrize("source", ["folder", "video"])
def test_after_kill_9_no_frame_is_missing_and_none_is_stored_twice(
    collect, resources, loads, frames, tmp_path, source
):
    given = frames if source == "folder" else write_video(tmp_path / "v.avi", 6)
    fork = multiprocessing.get_context("fork")
    for at in (1, 2, 3):
        loads(FakeModel(on_call=lambda calls, at=at: calls == at and os.kill(os.getpid(), signal.SIGKILL)))
        child = fork.Process(target=collect, args=(given,))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL

    loads(FakeModel())
    tally = collect(given)

    assert 0 < tally.done_before < 6
    assert len(stored(resources, tmp_path / "collected")) == 6


def test_a_frame_that_could_not_be_taken_stops_the_run_and_does_not_count_as_done(
    collect, frames, monkeypatch, tmp_path
):
    from retrain.data_collection.queue import DataCollectionQueue, SpoolFull

    def refuse(*_):
        raise SpoolFull("No space left in here; the frame was not taken.")

    with monkeypatch.context() as patched:
        patched.setattr(DataCollectionQueue, "append", refuse)
        with pytest.raises(Unavailable, match=r"0\.png was not taken: No space left"):
            collect(frames)

    assert collect(frames).offered == 6


def test_a_store_that_does_not_answer_leaves_frames_in_the_spool_and_says_how_to_go_on(
    collect, frames, monkeypatch, resources, tmp_path
):
    from retrain.storage.local_blobs import LocalBlobs

    def refuse(*_):
        raise Unavailable("The store is gone.")

    with monkeypatch.context() as patched:
        patched.setattr(LocalBlobs, "put_file", refuse)
        collect(frames)

    folder = tmp_path / "collected"
    assert collect.printed[-1].startswith(f"6 taken frames are not stored yet: they wait in {folder}/spool,")
    drain_once(existing_place(resources, folder), Console(file=io.StringIO()))
    assert len(stored(resources, folder)) == 6


def test_what_another_version_wrote_is_named_by_the_drain(tmp_path, resources):
    DataCollectionQueue(tmp_path / "spool").append(b"another version")
    place, said = existing_place(resources, tmp_path), io.StringIO()

    drain_once(place, Console(file=said, width=200))

    assert said.getvalue() == "1 written by another version of Retrain and left out\n"


def test_paths_come_from_standard_input(collect, frames):
    tally = collect("-", stdin=[f"{frames}/1.png\n", f"{frames}/gone.png\n"])

    assert tally.offered == 1
    assert tally.unusable == {"cannot be read: No such file or directory": 1}


def test_the_mirrored_image_is_predicted_where_the_strategy_compares(collect, loads, frames):
    loads(FakeModel())

    tally = collect(frames, strategy="flip_disagreement")

    # The box does not move with the picture, so the mirrored prediction never agrees.
    assert tally.taken == {"flip_disagreement": 6}


def test_without_storage_samples_go_to_the_configured_store(collect, resources, frames):
    collect(frames, storage=None)

    with resources.state.read() as connection:
        assert len(connection.execute(select(samples)).all()) == 6
    assert resources.spool.is_dir()


def test_a_folder_of_its_own_uses_neither_the_configured_bucket_nor_redis(resources, tmp_path):
    far = {"s3_bucket": "far-away", "redis_url": "redis://far-away"}
    section = resources.config.data_collection.model_copy(update=far)
    config = resources.config.model_copy(update={"data_collection": section})

    place = collection_place(Resources(config, resources.home), tmp_path / "collected")

    assert place.stream_drainer() is None
    assert place.config.data_collection.s3_bucket is None
    assert place.spool == tmp_path / "collected" / "spool"


def test_a_model_with_other_classes_may_not_mix_its_samples_with_the_configured_models(
    collect, loads, frames
):
    loads(FakeModel(), classes=("cat",))

    with pytest.raises(ConfigError, match=r"classes cat, but 'm' is configured with dent, scratch"):
        collect(frames, storage=None)

    assert collect(frames).offered == 6


def test_the_storage_folder_is_not_collected_into_itself(collect, tmp_path, frames):
    (tmp_path / "collected").mkdir()
    (tmp_path / "collected" / "old.png").write_bytes(png_bytes(50))

    assert collect(tmp_path).offered == 6


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"strategy": "uncertanty"}, ConfigError, "Did you mean 'uncertainty'"),
        ({"model": None}, ConfigError, "'uncertainty' looks at predictions, and 'm' has no champion: name a"),
        ({"strategy": "no_detections", "model": None}, ConfigError, "'no_detections' looks at predictions"),
        ({"strategy": "shadow_disagreement"}, ConfigError, "needs the predictions of a second model"),
        ({"strategy": "combined"}, ConfigError, "needs weights"),
    ],
)
def test_a_strategy_that_cannot_work_is_refused_before_anything_is_collected(
    collect, frames, options, error, said
):
    with pytest.raises(error, match=said):
        collect(frames, **options)

    assert collect.printed == []


def test_where_nothing_can_be_used_the_first_reason_is_the_error(collect, tmp_path):
    (tmp_path / "x.png").write_bytes(b"hello")

    with pytest.raises(BadInput, match=r"No frame could be used\. The first: .*x\.png is not an image"):
        collect(tmp_path / "x.png")


def test_a_source_that_is_missing_makes_no_storage(collect, tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        collect(tmp_path / "nowhere")

    assert not (tmp_path / "collected").exists()


def test_a_model_is_found_by_folder_digest_or_as_champion(resources, tmp_path):
    from retrain.serving.release import Lineage

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"classes": ["dent"], "imgsz": 64}))
    (folder / "weights.safetensors").write_bytes(b"weights")
    digest = resources.releases.publish(folder, Lineage("v1.0.0", "x", "job", None, "test"))
    resources.routes.initialise("m", digest, 1.0)

    release, found = find_model(resources, digest)

    assert found == digest
    assert find_model(resources, "champion") == (release, digest)
    assert find_model(resources, str(release)) == (release, digest)
    assert find_model(resources, str(folder)) == (folder, "")


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere", "is no folder"), ("champion", "has no champion yet"), ("a" * 64, "No release aaaa")],
)
def test_a_model_that_is_none_is_one_clear_error(resources, name, said):
    with pytest.raises(NotFound, match=said):
        find_model(resources, name)


def test_a_folder_that_holds_no_model_is_refused(resources, tmp_path):
    from flows.collect_model import load_model

    with pytest.raises(NotFound, match=r"model\.json does not exist; a model folder holds"):
        load_model(resources, str(tmp_path))


def test_away_from_a_terminal_progress_is_a_line_now_and_then():
    file, now = io.StringIO(), iter(range(0, 100, 4))

    with progress_display(Console(file=file, width=80), 50, clock=lambda: next(now)) as show:
        for offered in range(1, 6):
            show(Tally(offered=offered))

    lines = file.getvalue().splitlines()
    assert lines[0] == "3 of 50: 3 offered, 0 taken"
    assert len(lines) < 5


def test_on_a_terminal_progress_is_a_bar():
    file = io.StringIO()

    with progress_display(Console(file=file, width=80, force_terminal=True), 50) as show:
        show(Tally(offered=20, done_before=5))

    assert "25/50" in file.getvalue()
