import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.data_collection.metadata import check_names, fitting, json_metadata
from retrain.errors import BadInput
from retrain.storage.schema import draws

texts = st.text(st.characters(codec="utf-8"), max_size=400)


@given(camera=texts, recording=texts)
def test_names_pass_if_they_fit_their_columns_and_hold_no_nul(camera, recording):
    names = {200: camera, 300: recording}
    fits = all(len(name) <= room and "\0" not in name for room, name in names.items())

    try:
        check_names(camera, {"recording": recording})
    except BadInput:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize("recording", [None, 7, ["east", 1]])
def test_a_recording_need_not_be_text(recording):
    check_names("c", {"recording": recording})


@given(text=texts)
def test_what_is_made_to_fit_a_column_fits(text):
    found = fitting(text, draws.c.release)

    assert len(found) <= 64
    assert "\0" not in found
    assert text.startswith(found) or "\0" in text


@pytest.mark.parametrize("text", ["a\0b", "\0", "\\\0"])
def test_nul_is_found_wherever_it_is(text):
    for metadata in ({"a": text}, {text: 1}, {"a": [{"b": text}]}):
        with pytest.raises(BadInput, match="no NUL"):
            json_metadata(metadata)


@pytest.mark.parametrize("text", [r"\u0000", r"\\u0000", "u0000"])
def test_what_only_looks_like_nul_is_kept(text):
    assert json_metadata({"a": text}) == {"a": text}


@pytest.mark.parametrize("value", [math.nan, math.inf, b"1", {1}, object()])
def test_what_is_no_json_is_refused(value):
    with pytest.raises(BadInput, match="JSON values only"):
        json_metadata({"a": [value]})
