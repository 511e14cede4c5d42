import base64
import io
import re

import msgspec
import numpy as np
import pytest
from PIL import Image

from retrain.dataset.comparing.diff import diff_versions
from retrain.dataset.report.pictures import LONGEST_SIDE, MOST_BOXES, colour, drawn, paired, thumbnail
from retrain.dataset.version import LabelledObject
from retrain.errors import BadInput

RED, GREEN = (200, 30, 30), (30, 200, 30)
replace = msgspec.structs.replace


def decoded(uri):
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red_left_green_right(mode="RGB"):
    image = Image.new("RGB", (64, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    return image.convert(mode)


def near(pixel, wanted):
    return max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) < 40


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [(1, (64, 32), (8, 16)), (3, (64, 32), (56, 16)), (6, (32, 64), (16, 8)), (8, (32, 64), (16, 56))],
)
def test_a_thumbnail_is_turned_as_exif_says(album, kind, orientation, size, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(red_left_green_right(), kind, exif=exif)

    picture = decoded(thumbnail(album.add(data), data))

    assert picture.size == size
    assert near(picture.getpixel(red), RED)
    assert near(picture.getpixel((size[0] - 1 - red[0], size[1] - 1 - red[1])), GREEN)
    assert picture.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    "data",
    [
        encode(red_left_green_right("CMYK"), "JPEG"),
        encode(red_left_green_right("RGBA"), "PNG"),
        encode(red_left_green_right("P"), "PNG", transparency=b"\x00\x10"),
        encode(
            red_left_green_right(),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (64, 32))],
            lossless=True,
        ),
    ],
    ids=["CMYK", "alpha", "palette", "animated"],
)
def test_every_kind_of_picture_keeps_its_colours(album, data):
    picture = decoded(thumbnail(album.add(data), data))

    assert picture.mode == "RGB"
    assert near(picture.getpixel((8, 16)), RED)
    assert near(picture.getpixel((56, 16)), GREEN)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_levels_are_stretched_so_that_something_is_seen(album, kind):
    levels = np.full((32, 64), 1000, np.uint16)
    levels[:, 32:] = 1400
    data = encode(Image.fromarray(levels), kind)

    picture = decoded(thumbnail(album.add(data), data))

    assert picture.getpixel((8, 16))[0] < 20
    assert picture.getpixel((56, 16))[0] > 235


def test_float_levels_with_nan_and_infinity_are_drawn(album):
    levels = np.full((32, 64), 0.25, np.float32)
    levels[:, 32:] = 0.75
    levels[0, :3] = np.nan, np.inf, -np.inf
    data = encode(Image.fromarray(levels), "TIFF")

    picture = decoded(thumbnail(album.add(data), data))

    assert picture.getpixel((56, 16))[0] > 235


def test_a_picture_of_one_level_is_drawn(album):
    data = encode(Image.fromarray(np.full((8, 8), 700, np.uint16)), "PNG")

    assert decoded(thumbnail(album.add(data), data)).size == (8, 8)


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (900, 600)])
def test_a_thumbnail_is_no_larger_than_it_may_be(album, size):
    item = album.picture(1, size=size)

    picture = decoded(thumbnail(item, album.data[item.image]))

    assert max(picture.size) == LONGEST_SIDE
    assert picture.size[0] / picture.size[1] == pytest.approx(size[0] / size[1], rel=0.08)


def test_another_images_bytes_are_refused(album):
    item, other = album.picture(1), album.picture(2)

    with pytest.raises(BadInput, match=f"{item.image} was asked for, but the bytes given are {other.image}"):
        thumbnail(item, album.data[other.image])


def test_damaged_bytes_are_refused_by_name(album):
    item = album.picture(1)

    with pytest.raises(BadInput, match=f"Image {item.image} cannot be decoded"):
        thumbnail(item, album.data[item.image][:-20])


def test_boxes_are_drawn_in_the_images_own_pixels(album):
    item = album.picture(1, [(1, (10.0, 20.0, 50.5, 60.0))], size=(1200, 800))

    svg = drawn(("cat", "dog"), item, album.data[item.image]).svg

    assert 'viewBox="0 0 1200 800"' in svg
    assert '<rect class="edge" x="10.0" y="20.0" width="40.5" height="40.0"><title>dog</title>' in svg
    assert f"color:{colour(1)}" in svg


def test_the_caption_counts_objects_by_class(album):
    box = (1.0, 1.0, 9.0, 9.0)
    item = album.picture(1, [(0, box), (1, box), (1, box)], split="val", source="human")

    given = drawn(("cat", "dog"), item, album.data[item.image])

    assert given.legend == (("dog", colour(1), 2), ("cat", colour(0), 1))
    assert given.title == "north · val · human"


def test_of_very_many_boxes_only_the_largest_are_drawn(album):
    many = [(0, (0.0, 0.0, 1.0 + n / 2000, 1.0)) for n in range(100_000)]
    item = album.picture(1, many)

    given = drawn(("cat", "dog"), item, album.data[item.image])

    assert given.svg.count('class="edge"') == MOST_BOXES
    assert 'width="51.0"' in given.svg
    assert given.left_out == 100_000 - MOST_BOXES
    assert given.legend[0][2] == 100_000


def test_neighbouring_classes_have_different_colours():
    assert len({colour(n) for n in range(80)}) == 80


def pair_of(album, build, change):
    item = album.picture(
        1, [(0, (1.0, 1.0, 9.0, 9.0)), (0, (20.0, 20.0, 30.0, 30.0)), (1, (40.0, 5.0, 60.0, 25.0))]
    )
    before, after = build([item]), build([replace(item, objects=change(item.objects))], name="v1.1.0")
    (one,) = diff_versions(before, after).relabellings
    return paired(one, before, after.items[0], album.data[item.image], 4)


def test_a_pair_shows_old_boxes_left_and_new_ones_right(album, build):
    pair = pair_of(
        album,
        build,
        lambda o: (o[0], replace(o[1], box=(22.0, 22.0, 33.0, 33.0)), replace(o[2], class_index=0)),
    )

    assert re.findall(r'<g class="(\w+)"><rect class="halo" x="([\d.]+)"', pair.before) == [
        ("kept", "1.0"), ("before", "20.0"), ("before", "40.0"),
    ]  # fmt: skip
    assert re.findall(r'<g class="(\w+)"><rect class="halo" x="([\d.]+)"', pair.after) == [
        ("kept", "1.0"), ("after", "22.0"), ("after", "40.0"),
    ]  # fmt: skip
    assert re.findall(r"<text[^>]*>(\w+)<", pair.before) == ["cat", "dog"]
    assert re.findall(r"<text[^>]*>(\w+)<", pair.after) == ["cat", "cat"]
    assert (pair.changes, pair.unchanged) == ({"moved": 1, "reclassed": 1}, 1)


def test_removed_and_added_boxes_are_dashed_and_on_one_side_only(album, build):
    pair = pair_of(album, build, lambda o: (o[0], o[1], LabelledObject("new", 1, (70.0, 5.0, 90.0, 25.0))))

    assert 'class="before gone"' in pair.before
    assert 'class="after new"' in pair.after
    assert "gone" not in pair.after
    assert "new" not in pair.before


def test_a_pair_holds_its_picture_once(album, build):
    pair = pair_of(album, build, lambda o: o[:2])

    assert pair.before.count("data:image/jpeg") == 1
    assert 'id="relabelled-4"' in pair.before
    assert "data:" not in pair.after
    assert 'href="#relabelled-4"' in pair.after
