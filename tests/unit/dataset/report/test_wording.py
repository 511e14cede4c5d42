import pytest

from retrain.dataset.report import wording


@pytest.mark.parametrize(
    ("value", "said"), [(0, "no images"), (1, "1 image"), (12_345, "12\u202f345 images")]
)
def test_counts_read_as_a_sentence(value, said):
    assert wording.counted(value, "image") == said


@pytest.mark.parametrize(("value", "said"), [(0, "±0"), (3, "+3"), (-1200, "\u22121\u202f200")])
def test_changes_have_a_sign(value, said):
    assert wording.change(value) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(1, 3, "33.3 %"), (1, 100_000, "< 0.1 %"), (0, 5, "0.0 %"), (0, 0, "not known"), (5, 5, "100.0 %")],
)
def test_shares_are_percent_and_a_trace_is_not_zero(part, whole, said):
    assert wording.percent(part, whole) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "not known"), (0.01234, "0.0123"), (12.345, "12.3"), (12_345.6, "12\u202f346")]
)
def test_numbers_have_three_digits_that_count(value, said):
    assert wording.number(value) == said


def test_long_names_are_cut_visibly():
    assert wording.shortened("abcdef", 6) == "abcdef"
    assert wording.shortened("abcdefg", 6) == "abcde…"
    assert wording.listed(("a", "b", "c", "d"), 2) == "a, b and 2 more"
