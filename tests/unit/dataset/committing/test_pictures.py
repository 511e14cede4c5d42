import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrain.dataset.committing.pictures import Pictures, picture_of, read_pictures, written_pictures
from retrain.duplicates.perceptual_hash import SIDE, perceptual_hash
from retrain.errors import BadInput

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
hashes = st.integers(0, 2**32 - 1).map(
    lambda seed: perceptual_hash(np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE), dtype=np.uint8))
)


@settings(max_examples=40)
@given(pictures=st.dictionaries(digests, hashes, max_size=6))
def test_hashes_come_back_as_they_were_written(pictures):
    assert read_pictures(written_pictures(pictures)) == pictures


@pytest.mark.parametrize("cut", [1, 31, 32, 1071])
def test_hashes_that_are_cut_off_are_an_error(cut, make_image):
    data = written_pictures({"ab" * 32: picture_of(make_image(1))})

    with pytest.raises(BadInput, match="come in rows of 1072 bytes"):
        read_pictures(data[:cut])


def asked(images, log):
    def give():
        log.append("asked")
        return images

    return give


def test_what_is_kept_is_not_computed_again_also_by_another_process(tmp_path, make_image):
    images, log = [("ab" * 32, make_image(1)), ("cd" * 32, make_image(2))], []

    first = Pictures(tmp_path / "new").of_pack("p", asked(images, log))
    second = Pictures(tmp_path / "new").of_pack("p", asked(images, log))

    assert first == second == {image: picture_of(data) for image, data in images}
    assert log == ["asked"]


def test_a_kept_file_that_was_cut_off_is_computed_again(tmp_path, make_image):
    images, log = [("ab" * 32, make_image(1))], []
    pictures = Pictures(tmp_path)
    whole = pictures.of_pack("p", asked(images, log))
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])

    assert pictures.of_pack("p", asked(images, log)) == whole
    assert log == ["asked", "asked"]


def test_hashes_of_other_packs_are_forgotten_and_half_written_files_too(tmp_path, make_image):
    pictures = Pictures(tmp_path)
    for pack in "pqr":
        pictures.keep(pack, {"ab" * 32: picture_of(make_image(1))})
    (tmp_path / ".p.pictures.0123abcd").write_bytes(b"")

    assert pictures.forget_others(["q", "never kept"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["q.pictures"]
    assert Pictures(tmp_path / "absent").forget_others([]) == 0


def test_levels_of_more_than_8_bits_are_not_compared_and_cost_nothing_the_next_time(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(buffer, "PNG")
    log = []
    pictures = Pictures(tmp_path)

    assert picture_of(buffer.getvalue()) is None
    for _ in range(2):
        assert pictures.of_pack("p", asked([("ab" * 32, buffer.getvalue())], log)) == {}
    assert log == ["asked"]
