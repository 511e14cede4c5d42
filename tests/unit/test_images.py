import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from retrain.errors import BadInput
from retrain.images import _Source, read_image, read_pixels


@pytest.fixture
def make_image():
    def encode(seed, kind="PNG", size=(24, 16)):
        pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    return encode


@pytest.mark.parametrize(
    ("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp"), ("WEBP", "webp")]
)
def test_an_image_is_known_by_its_bytes_and_has_its_formats_suffix(make_image, kind, suffix, tmp_path):
    data = make_image(1, kind)
    (tmp_path / "named.wrong").write_bytes(data)

    image = read_image(tmp_path / "named.wrong")

    assert (image.format, image.width, image.height) == (suffix, 24, 16)
    assert image == read_image(data)
    assert len(image.digest) == 64


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("forgiving", [False, True])
def test_a_truncated_image_is_refused_also_when_another_library_allows_them(
    make_image, kind, forgiving, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", forgiving)
    data = make_image(1, kind, size=(200, 200))

    for read in (read_image, read_pixels):
        with pytest.raises(BadInput, match=r"cannot be decoded|is not an image"):
            read(data[: len(data) // 2])
    assert forgiving == ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pixels_are_rgb_as_they_are_shown(mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    given = Image.fromarray(pixels).convert(mode)
    exif = given.getexif()
    exif[0x0112] = 6  # to be turned to the right
    given.save(tmp_path / "turned.png", exif=exif)

    read = read_pixels(tmp_path / "turned.png")

    assert np.array_equal(read, np.rot90(np.asarray(given.convert("RGB")), -1))
    assert read.dtype == np.uint8


def test_a_library_that_allows_truncated_images_is_not_disturbed_meanwhile(make_image, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = make_image(1, "JPEG", size=(800, 600))
    seen = set()

    class Watching(_Source):
        def read(self, size=-1, /):
            seen.add(ImageFile.LOAD_TRUNCATED_IMAGES)
            return super().read(size)

    monkeypatch.setattr("retrain.images._Source", Watching)
    read_image(data)

    assert seen == {True}


def test_a_flipped_bit_in_a_png_is_noticed(make_image):
    data = bytearray(make_image(1))
    data[len(data) // 2] ^= 1

    with pytest.raises(BadInput, match="cannot be decoded"):
        read_image(bytes(data))


def test_what_is_no_image_or_no_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not an image"):
        read_image(b"hello")
    with pytest.raises(BadInput, match="is not an image"):
        read_image(b"")
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_format_the_trainer_does_not_read_is_refused():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")

    with pytest.raises(BadInput, match="is GIF; use PNG"):
        read_image(buffer.getvalue())


def test_a_picture_turned_by_exif_has_the_size_its_readers_see():
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)

    image = read_image(buffer.getvalue())

    assert (image.width, image.height) == (20, 40)


def test_a_huge_image_is_refused_before_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")

    with pytest.raises(BadInput, match="has 10000 x 10000 pixels"):
        read_image(buffer.getvalue())


@pytest.mark.parametrize(
    ("size", "side"), [((640, 480), 120), ((100, 1), 1), ((1, 1), 1), ((3000, 2000), 64)]
)
def test_the_thumbnail_is_small_and_grey_and_never_empty(make_image, size, side):
    for kind in ("JPEG", "PNG"):
        thumbnail = read_image(make_image(1, kind, size)).thumbnail

        assert thumbnail.ndim == 2
        assert 1 <= min(thumbnail.shape) <= max(side, 127)


def test_a_picture_one_pixel_wide_gives_a_small_thumbnail_too(make_image):
    assert max(read_image(make_image(1, "PNG", size=(1, 400_000))).thumbnail.shape) < 10_000


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_levels_of_more_than_8_bits_have_no_thumbnail(dtype):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 64).reshape(64, 64).astype(dtype)).save(buffer, "TIFF")

    image = read_image(buffer.getvalue())

    assert (image.width, image.thumbnail) == (64, None)
