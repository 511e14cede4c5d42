import re
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import retrain.evaluation.report.page
from retrain.boxes import Annotations, Detections
from retrain.errors import BadInput
from retrain.evaluation.comparator import ModelComparator
from retrain.evaluation.errors_analysis import ErrorAnalyzer
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.gate import GateDecision, RuleFinding
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.report.page import ReportPage
from retrain.evaluation.result import EvaluationResult, Served
from retrain.evaluation.truth import LabelledImage, Truth
from retrain.evaluation.visualizer import Visualizer

CLASSES = ("cat", "<b>dog</b>")
OBJECTS = Annotations.of([[5, 5, 25, 25], [40, 40, 70, 60]], [0, 1])


def result(model, quality, seed, classes=CLASSES, images=24):
    """A model that finds each object with this probability, and now and then what is not there."""
    rng = np.random.default_rng(seed)
    labelled, found = [], {}
    for index in range(images):
        name = f"image-{index:03}"
        labelled.append(
            LabelledImage(name, f"recording-{index // 2}", OBJECTS, attributes={"camera": f"cam {index % 2}"})
        )
        seen = rng.random(2) < quality
        boxes = np.vstack([OBJECTS.boxes[seen] + 1, [[60, 5, 80, 20]]])
        scores = np.append(rng.uniform(0.5, 1, seen.sum()), rng.uniform(0, 0.6))
        found[name] = Detections.of(boxes, np.append(OBJECTS.classes[seen], 0), scores)
    truth = Truth.of(labelled, classes)
    evaluation = Evaluation(truth, Predictions.of(truth, found), EvaluationProtocol(), 0.25)
    return EvaluationResult(
        model, "ab" * 32, "torch", 64, "v1.1.0/test", evaluation, ("map50",), Served(0.25, "the release")
    )


def served_by_class(one):
    each = dict(zip(one.evaluation.truth.classes, (0.123, 0.678), strict=True))
    evaluation = replace(one.evaluation, confidence=each)
    return replace(one, evaluation=evaluation, served=Served(each, "its release"))


def pixels(_):
    return np.full((80, 90, 3), 200, dtype=np.uint8)


def said(page):
    """Its words, without style and pictures."""
    body = page[page.index("<body>") :]
    return re.sub(r'src="data:[^"]*"', "", body).lower()


def rows(page):
    """Of all tables, as HTML."""
    return re.findall(r"<tr>.*?</tr>", page, re.DOTALL)


def scores(page):
    """Words of each row of the section of scores, its headings too."""
    section = page[page.index('<section id="scores">') : page.index('<section id="classes">')]
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows(section))
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in cells]


def test_a_page_of_one_model_says_its_numbers_and_needs_nothing_else():
    one = result("model_v2.pt", 0.8, 0)

    page = ReportPage(one).html(pixels)

    summary = one.evaluation.summary
    for value in (summary.map50, summary.map50_95, summary.coco["ar100"], summary.precision, summary.recall):
        assert f">{value:.3f}<" in page
    assert "24 images of 12 recordings, 48 objects" in page
    assert one.evaluation.truth.digest[:16] in page
    assert "101 recall levels" in page
    assert "Objects lost and gained" not in page
    # No network, no script.
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert page == ReportPage(one).html(pixels)


def test_what_comes_from_outside_is_escaped():
    page = ReportPage(result("<script>alert(1)</script>.pt", 0.8, 0)).html(pixels)

    assert "<script>" not in page
    assert "<b>dog</b>" not in page
    assert "&lt;b&gt;dog&lt;/b&gt;" in page


def test_a_page_of_two_models_says_what_changed_and_how_surely():
    before, after = result("old.pt", 0.4, 0), result("new.pt", 0.95, 1)

    page = ReportPage(after, before, resamples=200).html(pixels)

    old, new = before.evaluation.summary.map50, after.evaluation.summary.map50
    assert f'<span class="before">{old:.3f}</span>' in page
    assert f'<span class="after">{new:.3f}</span>' in page
    assert f"mAP50 +{new - old:.3f}" in page
    assert "No gate was asked" in page
    assert "missed before, found now" in page
    assert "camera: cam 0" in page


def test_the_gate_s_decision_stands_first_with_each_rule():
    rules = (
        RuleFinding("must_improve[0]", "better", 0.2, 0.1, 0.3, 0.0, "mAP50 is better."),
        RuleFinding("limits.latency", "invalid", None, None, None, 1.2, "Latency was not measured."),
    )
    decision = GateDecision("invalid", passed=False, reasons=tuple(rule.said for rule in rules), rules=rules)

    page = ReportPage(result("new.pt", 0.9, 1), result("old.pt", 0.5, 0), decision, resamples=200).html(
        pixels
    )

    lede = re.search(r'<p class="lede">(.*?)</p>', page, re.DOTALL)
    assert lede
    assert "invalid" in lede[1]
    assert "Latency was not measured." in lede[1]
    assert "The gate: invalid" in page
    assert "mAP50 is better." in page


def test_a_page_with_pictures_and_one_without_bootstrap_and_draw_once(monkeypatch):
    counts = Counter()

    def counted(place, name):
        real = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, **k: counts.update([name]) or real(*a, **k))

    once = ("all_slices", "worst_slices", "pictures", "object_changes", "ErrorAnalyzer", "Visualizer")
    for name in once:
        counted(retrain.evaluation.report.page, name)
    counted(ModelComparator, "compare")
    counted(ErrorAnalyzer, "false_positives")
    counted(ErrorAnalyzer, "false_negatives")
    pair = result("new.pt", 0.9, 1), result("old.pt", 0.5, 0)
    both = ReportPage(*pair, resamples=200)

    without, with_pictures = both.html(None), both.html(pixels)

    once = {*once, "compare", "false_positives", "false_negatives"}
    assert counts == dict.fromkeys(once, 1)
    assert with_pictures == ReportPage(*pair, resamples=200).html(pixels)
    assert without == both.html(None)
    assert "image/jpeg" in with_pictures
    assert "image/jpeg" not in without


def test_models_of_other_images_are_not_drawn_beside_each_other():
    one, other = result("a.pt", 0.8, 0), result("b.pt", 0.8, 0, images=20)

    with pytest.raises(BadInput):
        ReportPage(one, other).html(pixels)
    with pytest.raises(BadInput, match="not of the same images"):
        Visualizer(one.evaluation, other.evaluation)


def test_a_page_says_what_both_models_are_served_from():
    before, after = result("old.pt", 0.4, 0), served_by_class(result("new.pt", 0.95, 1))

    page = ReportPage(after, before, resamples=200).html(None)

    assert "<dd>0.123 to 0.678 by class, from its release</dd>" in page
    assert "<dt>that of old.pt</dt><dd>0.25, from the release</dd>" in page
    # Not in the rows of a table, which it would widen.
    assert "new.pt: served confidence 0.123 to 0.678 by class;" in page
    assert "old.pt: served confidence 0.25;" in page
    assert not [row for row in rows(page) if "by class" in row]


def test_names_of_any_length_are_drawn():
    names = tuple(f"{letter * 200}" for letter in "ab")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = ReportPage(result("a" * 64, 0.8, 0, names), result("b" * 64, 0.4, 1, names)).html(None)

    assert names[0] in page


@pytest.mark.parametrize("quality", [0.0, 1.0])
def test_nothing_found_and_everything_found_are_drawn(quality):
    page = ReportPage(result("a.pt", quality, 0)).html(pixels)

    assert "nan" not in said(page)


@pytest.mark.parametrize("classes", [("$\\frac{", "$$"), ("_", "__")])
def test_names_are_drawn_as_they_are_written(classes):
    """Not as formulas, and not left out of the legend."""
    one, other = (result(classes[1], 0.8, seed, classes) for seed in (0, 1))

    with warnings.catch_warnings():
        # Of a legend that matplotlib finds no label for.
        warnings.simplefilter("error")
        page = ReportPage(one, other).html(pixels)

    assert classes[0] in page


def test_an_attribute_that_is_known_of_no_image_is_no_slice():
    one = result("a.pt", 0.8, 0)
    truth = one.evaluation.truth
    unknown = tuple({**each, "weather": None, "hour": float("nan")} for each in truth.attributes)
    blank = replace(one, evaluation=replace(one.evaluation, truth=replace(truth, attributes=unknown)))

    page = ReportPage(blank).html(pixels)

    assert "weather" not in page
    assert "cam 1" in page


def test_notes_of_both_models_are_shown_and_equal_ones_once():
    one, other = (replace(result("m", 0.8, seed), notes=("same", f"of {seed}")) for seed in (0, 1))

    page = ReportPage(one, other).html(None)

    assert [page.count(f'<p class="warn">{note}</p>') for note in ("same", "of 0", "of 1")] == [1, 1, 1]


def test_models_of_the_same_file_name_are_told_apart_by_their_folders(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "retrain.evaluation.report.page.Visualizer",
        lambda one, before, names: drawn.append(names) or Visualizer(one, before, names),
    )
    pairs = (
        ("/x/a/best.pt", "/x/b/best.pt"),
        ("a/old.pt", "b/new.pt"),
        ("/x/a/best.pt", "/x/a/best.pt"),
        (f"/jobs/{'ab' * 16}/model", f"/jobs/{'cd' * 16}/model"),
        (f"/x/{'ab' * 16}/model", f"/y/{'ab' * 16}/model"),
    )
    for before, after in pairs:
        ReportPage(result(after, 0.8, 0), result(before, 0.8, 1)).html(None)

    assert drawn == [
        ("a/best.pt", "b/best.pt"),
        ("old.pt", "new.pt"),
        ("best.pt", "best.pt"),
        ("abababab…/model", "cdcdcdcd…/model"),
        ("x/abababab…/model", "y/abababab…/model"),
    ]


def test_the_path_of_one_model_is_whole_in_the_protocol_only():
    path = f"/home/someone/jobs/{'ab' * 16}/model"

    page = ReportPage(result(path, 0.8, 0)).html(None)

    assert "<h1>abababab…/model</h1>" in page
    assert "<title>abababab…/model on v1.1.0/test</title>" in page
    assert '<p class="lede">abababab…/model on v1.1.0/test: mAP50-95' in page
    assert page.count(path) == page.count(f"<dt>model</dt><dd>{path} ") == 1


def test_two_models_have_the_same_columns_for_every_score():
    before, after = result("old.pt", 0.4, 0), result("new.pt", 0.95, 1)

    page = ReportPage(after, before, resamples=200).html(None)

    old, new = before.evaluation.summary, after.evaluation.summary
    tables = scores(page)
    assert [line[1:] for line in tables if line[0] in ("COCO", "IoU 0.5, all classes together")] == [
        ["before", "now", "change", "interval"]
    ] * 2
    by_name = {line[0]: line[1:] for line in tables}
    for name, was, now, sure in (
        ("mAP75", old.coco["map75"], new.coco["map75"], False),
        ("mAP50", old.map50, new.map50, True),
        ("recall at the served confidence", old.recall, new.recall, True),
        ("best F1 at any one confidence", old.best_f1, new.best_f1, False),
    ):
        assert by_name[name][:3] == [f"{was:.3f}", f"{now:.3f}", f"+{now - was:.3f}"]
        assert (" to " in by_name[name][3]) == sure
    (alone,) = (line for line in scores(ReportPage(after).html(None)) if line[0] == "mAP75")
    assert alone == ["mAP75", f"{new.coco['map75']:.3f}"]


def test_errors_say_of_which_model_they_are_and_from_which_confidence():
    before, after = result("old.pt", 0.4, 0), result("new.pt", 0.95, 1)

    alone, both = (ReportPage(after, other, resamples=200).html(pixels) for other in (None, before))

    for page in (alone, both):
        assert "The types count detections of any confidence from 0.001 on, as average precision does" in page
        assert "median IoU 0." in page
    assert "The picture is of both models, all else of new.pt." in both
    assert "The picture is of both" not in alone
    assert "By new.pt." in both
    assert (alone.count('<ul class="key">'), both.count('<ul class="key">')) == (2, 3)


@pytest.mark.parametrize("before", [None, result("old.pt", 0.4, 0)])
def test_cards_of_precision_and_recall_say_at_which_confidence(before):
    page = ReportPage(result("new.pt", 0.95, 1), before, resamples=200).html(None)

    cards = page.split('<div class="card"><div class="name">')[1:]
    assert [card.partition("<")[0] for card in cards if "at the served confidence</div>" in card] == [
        "precision",
        "recall",
    ]


def test_captions_say_whose_score_it_is():
    truth = Truth.of([LabelledImage(f"{n}", f"{n}", OBJECTS) for n in range(6)], CLASSES)
    seen = Detections.of(OBJECTS.boxes, [1, 1], [0.61, 0.15])
    evaluation = Evaluation(
        truth, Predictions.of(truth, dict.fromkeys(truth.images, seen)), EvaluationProtocol(), 0.25
    )
    one = replace(result("a.pt", 0.8, 0), evaluation=evaluation)

    page = said(ReportPage(one).html(pixels))

    dog = "&lt;b&gt;dog&lt;/b&gt;"
    assert f"<b>{dog} with score 0.61</b><br>classification, there is cat;" in page
    assert f"<b>cat</b><br>classification, seen as {dog} with score 0.61;" in page
    assert f"<b>{dog}</b><br>low score, seen as {dog} with score 0.15;" in page


def test_the_level_of_the_intervals_is_not_rounded():
    page = ReportPage(result("b", 0.9, 0), result("a", 0.8, 1), level=0.975).html(None)

    assert "Intervals at 97.5% from" in page
    assert ", 97.5% interval" in page


def test_images_without_objects_are_drawn():
    truth = Truth.of([LabelledImage(f"{n}", f"{n}", Annotations.empty()) for n in range(6)], CLASSES)
    empty = Predictions.of(truth, {image: Detections.empty() for image in truth.images})
    evaluation = Evaluation(truth, empty, EvaluationProtocol(), 0.25)
    served = Served(0.25, "the release")
    one = EvaluationResult("a.pt", "ab" * 32, "torch", 64, "empty", evaluation, ("map50",), served)

    page = ReportPage(one).html(pixels)

    assert "0 objects" in page
    assert "nan" not in said(page)
