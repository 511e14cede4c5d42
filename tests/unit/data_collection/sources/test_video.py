import logging
import os

import pytest

from retrain.data_collection.sources.frame import DoneBefore, SourceFrame, Unusable
from retrain.data_collection.sources.progress import FileIdentity, Progress
from retrain.data_collection.sources.video import Stream, is_readable_video, video_frames, video_length
from retrain.errors import Unavailable
from tests.unit.data_collection.videos import FPS, SIZE, brightness, write_video


@pytest.fixture
def progress(tmp_path):
    with Progress(tmp_path / "progress.sqlite", "pass") as opened:
        yield opened


def items(path, progress):
    return video_frames(FileIdentity.of(str(path)), "cam", "rec", progress)


def numbers(found):
    return [item.number for item in found if isinstance(item, SourceFrame)]


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "FFV1"), ("v.avi", "MJPG"), ("v.mp4", "mp4v")])
def test_every_frame_comes_once_and_in_order(tmp_path, progress, name, codec):
    path = write_video(tmp_path / name, 12, codec=codec)

    found = list(items(path, progress))

    assert numbers(found) == list(range(12))
    assert all(frame.image.shape == (SIZE, SIZE, 3) for frame in found)
    assert video_length(str(path)) == 12


def test_a_frame_knows_where_and_when_it_is_from(tmp_path, progress):
    path = write_video(tmp_path / "v.avi", 5)
    os.utime(path, (1000, 1000))

    found = list(items(path, progress))

    assert [frame.captured_at for frame in found] == pytest.approx([1000 + (i - 5) / FPS for i in range(5)])
    assert (found[3].camera, found[3].recording, found[3].name) == ("cam", "rec", f"{path} frame 3")


@pytest.mark.parametrize("stopped_after", [2, 4, 12])
def test_a_stopped_run_goes_on_with_the_frame_that_was_not_done(tmp_path, progress, stopped_after):
    path = write_video(tmp_path / "v.avi", 12)
    first = items(path, progress)
    for _ in range(stopped_after):
        last = next(first)
    first.close()

    done, *rest = items(path, progress)

    # The last frame was handed out, but nobody asked for the next: it may not have been dealt with.
    assert done == DoneBefore(stopped_after - 1)
    assert [brightness(frame) for frame in rest] == list(range(last.number, 12))


def test_a_finished_video_is_not_opened_again_until_it_changes(tmp_path, progress):
    path = write_video(tmp_path / "v.avi", 6)
    list(items(path, progress))

    assert list(items(path, progress)) == [DoneBefore(6)]
    write_video(path, 8, first=20)
    assert [brightness(frame) for frame in items(path, progress)] == list(range(20, 28))


def test_killed_just_before_a_video_was_noted_as_finished_nothing_is_offered_again(tmp_path, progress):
    path = write_video(tmp_path / "v.avi", 6)
    progress.note(FileIdentity.of(str(path)), 6, finished=False)

    assert list(items(path, progress)) == [DoneBefore(6)]
    assert progress.offered(FileIdentity.of(str(path))).finished


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 5000])
def test_what_is_no_video_is_unusable_and_is_tried_again_next_time(tmp_path, progress, content):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)

    assert list(items(path, progress)) == [Unusable(str(path), "cannot be opened as a video")]
    assert list(items(path, progress)) == [Unusable(str(path), "cannot be opened as a video")]
    assert not is_readable_video(str(path))
    assert video_length(str(path)) is None


def test_a_video_that_ends_early_gives_what_it_has_and_is_said_to_be_short(tmp_path, progress, caplog):
    path = write_video(tmp_path / "v.mkv", 40, codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with caplog.at_level(logging.WARNING):
        found = list(items(path, progress))

    assert 10 < len(numbers(found)) < 30
    assert f"ended after {len(found)} of 40 frames" in caplog.text


def test_a_read_that_fails_in_the_middle_does_not_make_a_video_finished(
    tmp_path, progress, monkeypatch, caplog
):
    from retrain.data_collection.sources import video

    path, reads, read = write_video(tmp_path / "v.avi", 30), [], video._read

    def fail_once(capture):
        reads.append(capture)
        return None if len(reads) == 11 else read(capture)

    monkeypatch.setattr(video, "_read", fail_once)

    first = list(items(path, progress))
    done, *rest = items(path, progress)

    assert numbers(first) == list(range(10))
    assert "ended after 10 of 30 frames; the next run goes on from there" in caplog.text
    assert done == DoneBefore(10)
    assert [brightness(frame) for frame in rest] == list(range(10, 30))
    assert list(items(path, progress)) == [DoneBefore(30)]


def test_a_percent_sign_in_the_name_is_no_pattern(tmp_path, progress):
    path = write_video(tmp_path / "v.avi", 3).rename(tmp_path / "lot_%02d.avi")

    assert numbers(items(path, progress)) == [0, 1, 2]


def test_a_stream_gives_its_newest_frame_and_says_when_it_ended(tmp_path, progress):
    path = write_video(tmp_path / "v.avi", 30)
    stream, found = Stream(str(path), "door", clock=lambda: 86_400.0 * 3), []

    with pytest.raises(Unavailable, match=r"ended after \d+ frames"):
        for frame in stream.frames(progress):
            found.append(frame)  # noqa: PERF402 - the error comes last

    shown = [brightness(frame) for frame in found]
    assert shown == sorted(set(shown))
    assert shown[-1] == 29
    assert {frame.recording for frame in found} == {"door/1970-01-04"}
    assert [frame.number for frame in found] == list(range(len(found)))


def test_a_stream_that_is_not_there_is_one_error_without_its_password(progress):
    stream = Stream("rtsp://user:secret@127.0.0.1:9/door?token=secret")

    with pytest.raises(Unavailable) as error:
        next(stream.frames(progress))

    assert str(error.value) == "127.0.0.1:9/door cannot be opened; is it there, and may it be used?"
    assert stream.count() is None


def test_a_camera_is_named_by_its_index():
    assert Stream(2).name == "camera-2"
