import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from retrain.dataset.measuring.coverage import PlaceCoverage
from retrain.dataset.report.figures import Column, column_chart, days, histogram, hours
from retrain.dataset.report.maps import NUMBERED, co_occurrence, heat, place_map
from retrain.dataset.stats import Histogram


def heights(svg):
    return [float(h) for h in re.findall(r'class="bar"[^>]*height="([\d.]+)"', svg)]


def test_bars_are_as_high_as_their_counts():
    low, none, high = heights(column_chart([Column(n, "", "") for n in (25, 0, 100)], "x"))

    assert none == 0
    assert high / low == pytest.approx(4, abs=0.02)


def test_a_small_count_beside_a_huge_one_still_shows():
    assert min(heights(column_chart([Column(n, "", "") for n in (1, 1_000_000)], "x"))) > 1


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [(1, ["0", "1"]), (7, ["0", "5", "10"]), (100, ["0", "50", "100"]), (42_000, ["0", "20k", "40k", "60k"])],
)
def test_ticks_are_round_whole_numbers(highest, ticks):
    svg = column_chart([Column(highest, "", "")], "x")

    assert re.findall(r'text-anchor="end"[^>]*>([^<]+)<', svg) == ticks


def test_a_histogram_names_every_bin():
    svg = histogram(Histogram((0.0, 8.0, 16.0), (3, 1, 2)), "side")

    assert re.findall("<title>([^<]+)</title>", svg) == ["0 to 8: 3", "8 to 16: 1", "from 16: 2"]


def test_a_closed_histogram_has_no_open_bin():
    svg = histogram(Histogram((0.0, 0.5, 1.0), (3, 1)), "share")

    assert re.findall("<title>([^<]+)</title>", svg) == ["0 to 0.5: 3", "0.5 to 1: 1"]


def test_no_counts_are_said_in_words():
    assert "nothing to draw" in histogram(Histogram((0.0, 1.0), (0, 0)), "x")
    assert "nothing to draw" in days({})
    assert "nothing to draw" in heat([[0, 0]], "x")
    assert "nothing to draw" in co_occurrence(["a"], [[0]])


def test_a_short_time_has_a_column_a_day_and_its_gaps():
    svg = days({"2026-01-01": 3, "2026-01-04": 1})

    assert [h > 0 for h in heights(svg)] == [True, False, False, True]
    assert "day from 2026-01-04: 1 image" in svg


def test_a_long_time_is_summed_into_few_columns():
    svg = days({"2020-01-01": 3, "2020-01-02": 2, "2026-01-04": 1})

    said = re.findall(r"<title>([^<]+)</title>", svg)
    assert len(said) <= 90
    assert said[0] == "25 days from 2020-01-01: 5 images"
    assert said[-1].endswith(": 1 image")


def test_every_hour_has_a_column():
    assert len(heights(hours([1] * 24))) == 24


def test_a_heat_map_is_as_strong_as_the_root_of_its_counts():
    html = heat([[0, 1], [4, 16]], "where")

    png = base64.b64decode(re.search(r"base64,([^)]+)\)", html).group(1))
    alpha = np.asarray(Image.open(io.BytesIO(png)).getchannel("A"))
    assert alpha.tolist() == [[0, 64], [128, 255]]


def test_a_cell_is_as_strong_as_the_share_of_the_rows_images():
    svg = co_occurrence(["cat", "dog"], [[10, 4], [4, 5]])

    cells = re.findall(r'fill-opacity="([\d.]+)"><title>([^<]+)</title></rect><text[^>]*>(\d+)<', svg)
    assert cells == [
        ("1.00", "cat: 10 images", "10"),
        ("0.40", "4 images of 10 with cat also show dog", "4"),
        ("0.80", "4 images of 5 with dog also show cat", "4"),
        ("1.00", "dog: 5 images", "5"),
    ]


def test_classes_in_no_image_are_left_out_of_the_matrix():
    svg = co_occurrence(["cat", "never", "dog"], [[1, 0, 1], [0, 0, 0], [1, 0, 1]])

    assert "never" not in svg
    assert svg.count("<rect") == 4


def test_a_matrix_of_many_classes_has_no_numbers_and_no_empty_cells():
    n = NUMBERED + 1
    svg = co_occurrence([f"c{i}" for i in range(n)], np.eye(n, dtype=int).tolist())

    assert svg.count("<rect") == n
    assert 'class="count"' not in svg


def test_north_is_up_and_east_is_right():
    places = PlaceCoverage(2, 0, {}, ((48.1, 11.5, 5), (48.9, 11.9, 1)), (48.105, 11.505, 48.905, 11.905))

    svg = place_map(places)

    (x1, y1, r1), (x2, y2, r2) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', svg)
    assert float(x1) < float(x2)
    assert float(y1) > float(y2)
    assert float(r1) > float(r2)
    width, height = (float(v) for v in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    assert 0 < float(x2) < width
    assert 0 < float(y1) < height


@pytest.mark.parametrize("bounds", [(10.0, 20.0, 10.0, 20.0), (-90.0, -180.0, 90.0, 180.0)])
def test_one_place_and_the_whole_world_can_be_drawn(bounds):
    south, west, north, east = bounds

    svg = place_map(PlaceCoverage(2, 0, {}, ((south, west, 1), (north, east, 1)), bounds))

    width, height = (float(v) for v in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', svg):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height
