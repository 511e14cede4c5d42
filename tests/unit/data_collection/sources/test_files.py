import os
from pathlib import Path

import pytest

from retrain.data_collection.sources.files import Files, open_source
from retrain.data_collection.sources.frame import DoneBefore, SourceFrame, Unusable
from retrain.data_collection.sources.progress import Progress
from retrain.data_collection.sources.video import Stream
from retrain.errors import BadInput, NotFound
from tests.unit.data_collection.videos import write_video


@pytest.fixture
def progress(tmp_path):
    with Progress(tmp_path / "progress.sqlite", "pass") as opened:
        yield opened


@pytest.fixture
def frames(tmp_path, png):
    """A folder with two images, a third one folder deeper, and what must be left alone."""
    folder = tmp_path / "frames"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b.png", "a.PNG", "sub/c.png", ".x.png", ".hidden/d.png", "notes.txt"):
        (folder / name).write_bytes(png(len(name)))
    return folder


def names(source, progress):
    return [Path(item.name).name for item in source.frames(progress) if isinstance(item, SourceFrame)]


def test_a_folder_gives_its_images_by_name_with_those_of_folders_inside(frames, progress):
    source = open_source(str(frames))

    assert names(source, progress) == ["a.PNG", "b.png", "c.png"]
    assert source.count() == 3


def test_an_image_is_its_own_bytes_and_its_folder_is_camera_and_recording(frames, progress):
    os.utime(frames / "sub" / "c.png", (1000, 1000))

    *_, last = open_source(str(frames)).frames(progress)

    assert last.image == (frames / "sub" / "c.png").read_bytes()
    assert (last.camera, last.recording) == ("sub", str(frames / "sub"))
    assert (last.captured_at, last.number) == (1000.0, None)


def test_a_video_in_a_folder_is_a_camera_and_a_recording_of_its_own(frames, progress):
    write_video(frames / "gate.avi", 4)

    source = open_source(str(frames))

    found = [item for item in source.frames(progress) if item.number is not None]
    assert [item.number for item in found] == [0, 1, 2, 3]
    assert {(item.camera, item.recording) for item in found} == {("gate", str(frames / "gate.avi"))}
    assert open_source(str(frames)).count() == 7


def test_a_camera_that_was_named_wins(frames, progress):
    write_video(frames / "gate.avi", 1)

    found = list(open_source(str(frames), camera="dock").frames(progress))

    assert {item.camera for item in found} == {"dock"}


def test_the_folder_that_samples_go_to_is_not_searched(frames, progress):
    source = open_source(str(frames), leave_out=frames / "sub")

    assert names(source, progress) == ["a.PNG", "b.png"]


def test_pixels_are_rgb_and_upright(tmp_path, progress):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (20, 10), (200, 0, 0))
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)

    [frame] = open_source(str(tmp_path / "turned.jpg")).frames(progress)

    assert frame.pixels().shape == (20, 10, 3)
    assert frame.pixels()[5, 5].tolist() == pytest.approx([200, 0, 0], abs=6)


def test_pixels_of_a_video_are_rgb_too(tmp_path, progress):
    import cv2
    import numpy as np

    path = tmp_path / "blue.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10, (16, 16))
    writer.write(np.full((16, 16, 3), (250, 0, 0), np.uint8))
    writer.release()

    [frame] = open_source(str(path)).frames(progress)

    assert frame.pixels()[0, 0].tolist() == pytest.approx([0, 0, 250], abs=3)


@pytest.mark.parametrize("cut", [-60, 5, 0])
def test_pixels_of_a_damaged_image_are_refused_with_the_reason(tmp_path, png, progress, cut):
    (tmp_path / "x.png").write_bytes(png(1)[:cut])
    [frame] = open_source(str(tmp_path / "x.png")).frames(progress)

    with pytest.raises(BadInput, match=r"^(is not an image|cannot be decoded)"):
        frame.pixels()


def test_a_glob_gives_what_matches(frames, progress):
    assert names(open_source(f"{frames}/*.png"), progress) == ["b.png"]
    assert names(open_source(f"{frames}/**/*.png"), progress) == ["c.png"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path, png, progress):
    (tmp_path / "lot[1].png").write_bytes(png(1))

    assert names(open_source(f"{tmp_path}/lot[1].png"), progress) == ["lot[1].png"]


def test_paths_on_standard_input_are_read_as_they_come(frames, progress):
    def lines():
        yield f"{frames}/b.png\n"
        yield "\n"
        asked.append("second")
        yield f"{frames}/sub/c.png\r\n"

    asked = []
    source = open_source("-", stdin=lines())
    found = source.frames(progress)

    assert source.count() is None
    assert next(found).name == f"{frames}/b.png"
    assert asked == []
    assert next(found).name == f"{frames}/sub/c.png"


def test_a_bad_path_does_not_stop_the_others(frames, progress):
    (frames / "folder.png").mkdir()
    paths = ["gone.png", f"{frames}/folder.png", f"{frames}/notes.txt", "nul\0.png", f"{frames}/b.png"]

    *bad, good = Files(paths).frames(progress)

    reasons = [item.reason for item in bad if isinstance(item, Unusable)]
    assert len(reasons) == 4
    assert reasons[0] == "cannot be read: No such file or directory"
    assert reasons[1] == "cannot be read: Is a directory"
    assert reasons[2].startswith("is neither an image nor a video")
    assert good.name == f"{frames}/b.png"


def test_an_image_is_done_only_when_the_next_is_asked_for(frames, progress):
    first = open_source(str(frames)).frames(progress)
    next(first)
    next(first)
    first.close()

    again = list(open_source(str(frames)).frames(progress))

    assert again[0] == DoneBefore(1)
    assert [Path(item.name).name for item in again[1:]] == ["b.png", "c.png"]


def test_an_image_that_changed_is_offered_again(frames, progress, png):
    list(open_source(str(frames)).frames(progress))
    (frames / "b.png").write_bytes(png(99) + b" ")

    assert names(open_source(str(frames)), progress) == ["b.png"]


def test_a_source_that_is_offered_again_leaves_the_others_done(frames, tmp_path, png, progress):
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.png").write_bytes(png(1))
    for folder in (frames, other):
        list(open_source(str(folder)).frames(progress))

    again = open_source(str(frames))
    again.offer_again(progress)

    assert names(again, progress) == ["a.PNG", "b.png", "c.png"]
    assert list(open_source(str(other)).frames(progress)) == [DoneBefore(1)]


def test_paths_on_standard_input_are_offered_again_as_they_come(frames, progress):
    lines = [f"{frames}/b.png\n"]
    list(open_source(str(frames)).frames(progress))

    again = open_source("-", stdin=iter(lines))
    again.offer_again(progress)

    assert names(again, progress) == ["b.png"]
    assert list(open_source(str(frames / "a.PNG")).frames(progress)) == [DoneBefore(1)]


def test_a_name_that_is_no_text_is_offered_and_can_be_shown(tmp_path, png, progress):
    folder = os.fsencode(tmp_path) + b"/cam-\xff"
    os.mkdir(folder)  # noqa: PTH102 - the name is no text
    with open(folder + b"/1.png", "wb") as file:
        file.write(png(1))

    [frame] = open_source(os.fsdecode(folder)).frames(progress)

    assert frame.camera == "cam-\N{REPLACEMENT CHARACTER}"
    assert frame.name.encode()


def test_cameras_and_streams_are_known_by_their_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert isinstance(open_source("0"), Stream)
    assert isinstance(open_source("rtsp://door.local/stream"), Stream)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("nowhere", NotFound, "There is no file, folder or camera nowhere"),
        ("nowhere/*.png", NotFound, "No image or video matches nowhere"),
        ("empty", BadInput, "There is no image or video in empty"),
        ("notes.txt", BadInput, "notes.txt is neither an image nor a video; known are .avi, .bmp"),
        ("bad.mp4", BadInput, "bad.mp4 cannot be read as a video"),
        ("ftp://x/y", BadInput, "Frames cannot be read from ftp://"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_collected(
    tmp_path, monkeypatch, text, error, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bad.mp4").write_text("hello")

    with pytest.raises(error, match=said):
        open_source(text)
