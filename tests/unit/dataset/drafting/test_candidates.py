import os

from retrain.dataset.drafting import candidates
from retrain.dataset.drafting.candidates import PackedImage, read_candidates
from retrain.errors import BadInput
from retrain.storage.digests import content_digest
from retrain.storage.packs import write_pack


def test_files_bytes_and_images_in_packs_give_the_same_candidate(tmp_path, make_image):
    data = make_image(1)
    (tmp_path / "a.png").write_bytes(data)
    name = f"{content_digest(data)}.png"
    pack = tmp_path / f"{write_pack(tmp_path, [(name, data)])}.zip"

    found = list(
        read_candidates([tmp_path / "a.png", str(tmp_path / "a.png"), data, PackedImage(pack, name)])
    )

    assert {(c.digest, c.format, c.width, c.height, c.file_name) for c in found} == {
        (content_digest(data), "png", 24, 16, name)
    }
    assert len({c.picture for c in found}) == 1
    assert found[1].source == tmp_path / "a.png"


def test_what_is_no_image_is_told_in_its_place_and_the_rest_is_read(tmp_path, make_image):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "damaged.zip").write_bytes(b"no zip")
    sources = [
        make_image(1),
        b"",
        tmp_path / "absent.png",
        tmp_path / "folder",
        tmp_path / "loop",
        PackedImage(tmp_path / "absent.zip", "x.png"),
        PackedImage(tmp_path / "damaged.zip", "x.png"),
        "nul\0.png",
        make_image(2),
    ]

    found = list(read_candidates(sources))

    bad = [isinstance(c, BadInput) for c in found]
    assert bad == [False] + [True] * 7 + [False]
    said = [str(c) for c in found[1:8]]
    assert said[0] == "is not an image"
    assert said[1:4] == [f"cannot be read: {os.strerror(number)}" for number in (2, 21, 40)]
    assert "not on this machine" in said[4]
    assert "damaged" in said[5]
    assert "cannot be read" in said[6]


def test_they_come_in_order_with_news_of_the_progress_and_not_all_at_once(monkeypatch, make_image):
    monkeypatch.setattr(candidates, "_AHEAD", 4)
    read, told = [], []
    plain = candidates.read_image
    monkeypatch.setattr(candidates, "read_image", lambda given: read.append(given) or plain(given))
    images = [make_image(seed) for seed in range(10)]

    reading = read_candidates(images, lambda *news: told.append(news))
    first = next(reading)
    decoded = len(read)
    rest = list(reading)

    assert [c.digest for c in (first, *rest)] == [content_digest(data) for data in images]
    assert decoded <= 4
    assert told == [("reading images", done, 10) for done in (4, 8, 10)]
