import dataclasses
import re
from xml.etree import ElementTree as ET

from retrain.monitoring.figures import (
    HEIGHT,
    WIDTH,
    Line,
    Rule,
    incident_chart,
    line_chart,
    loss_chart,
    score_chart,
)
from retrain.monitoring.report import EpochPoint


def paths(svg: str) -> list[str]:
    return re.findall(r'<path d="([^"]+)"', svg)


def test_a_gap_in_the_points_lifts_the_pen():
    svg = line_chart([Line(((0, 0.1), (1, None), (2, 0.3), (3, 0.4)), "before")], "said", "x", y_range=(0, 1))

    assert paths(svg)[0].count("M") == 2
    assert svg.count("<circle") == 3


def test_a_chart_without_a_single_point_says_not_measured():
    assert "not measured" in line_chart([Line(((0, None),), "before")], "said", "x", y_range=(0, 1))
    assert "not measured" in line_chart([], "said", "x", y_range=None)


def test_the_higher_value_is_drawn_higher_and_inside_the_picture():
    svg = line_chart([Line(((0, 0.0), (10, 1.0)), "before")], "said", "x", y_range=(0, 1))

    (x0, y0), (x1, y1) = [
        tuple(map(float, step[1:].split())) for step in re.findall(r"[ML][\d. ]+", paths(svg)[0])
    ]
    assert 0 < x0 < x1 < WIDTH
    assert 0 < y1 < y0 < HEIGHT


def test_a_value_above_the_range_stretches_it():
    svg = line_chart([Line(((0, 0.0), (1, 3.7)), "loss0")], "said", "x", y_range=None)

    assert [float(y) for y in re.findall(r'cy="([\d.-]+)"', svg)][1] >= 0


def test_one_point_and_a_flat_line_at_zero_can_be_drawn():
    assert "<svg" in line_chart([Line(((5, 0.0),), "before")], "said", "x", y_range=None)


def test_every_chart_of_a_report_is_well_formed_and_has_a_text_alternative(report):
    charts = [incident_chart(report.incident, series) for series in report.incident.cameras]
    charts += [draw(curve) for curve in report.training for draw in (score_chart, loss_chart)]

    for chart in charts:
        assert ET.fromstring(chart).get("aria-label")


def test_the_line_changes_colour_where_the_new_model_took_over(report):
    svg = incident_chart(report.incident, report.incident.cameras[1])

    assert 'class="line before"' in svg
    assert 'class="line after"' in svg
    assert {"drift", "threshold", "new model"} <= set(re.findall(r">([a-z ]+)</text>", svg))


def test_without_a_switch_nothing_is_drawn_as_the_new_model(report):
    svg = incident_chart(dataclasses.replace(report.incident, switched_at=None), report.incident.cameras[0])

    assert "new model" not in svg
    assert 'class="line after"' not in svg
    assert "drift" not in svg


def test_rule_labels_that_would_collide_step_down():
    rules = [Rule(50, "threshold", "plain"), Rule(52, "new model", "good")]
    svg = line_chart([Line(((0, 0.0), (100, 1.0)), "before")], "said", "x", y_range=(0, 1), rules=rules)

    rows = re.findall(r'class="mark \w+" x="[\d.]+" y="(\d+)"', svg)
    assert len(set(rows)) == 2


def test_a_loss_missing_in_one_epoch_is_a_gap_not_a_zero(report):
    epochs = (EpochPoint(1, None, {"box": 2.0}), EpochPoint(2, None, {}), EpochPoint(3, None, {"box": 1.0}))
    curve = dataclasses.replace(report.training[0], epochs=epochs)

    assert paths(loss_chart(curve))[0].count("M") == 2
    assert "not measured" in score_chart(curve)
