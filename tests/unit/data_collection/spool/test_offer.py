import os

import pytest

from retrain.data_collection.spool.offer import Offer, decode_offer, encode_offer, marked
from retrain.errors import BadInput


def offer(**metadata):
    return Offer("m", "", "uncertainty", "confidence < 0.7", 1.0, False, 0.01, 0.0, 0.65, None, metadata)


@pytest.mark.parametrize("size", [0, 100, 1_000, 1_024, 5_000, 100_000])
def test_an_offer_of_any_size_is_read_back_as_it_was(size):
    given = offer(note="x" * size)

    assert decode_offer(bytes(encode_offer(given))) == given


def test_encoding_one_offer_leaves_the_bytes_of_another_alone():
    first = encode_offer(offer(note="first"))
    before = bytes(first)

    encode_offer(offer(note="second"))

    assert first == before


def test_what_is_no_plain_value_is_refused():
    with pytest.raises(BadInput, match="plain values only"):
        encode_offer(offer(lock=object()))


def test_what_may_never_end_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(BadInput, match=r"cannot be read: it is no regular file\."):
            marked(path)
