import json

import numpy as np
import pytest

from retrain.errors import BadInput
from retrain.evaluation.confusion import confusion_matrix
from retrain.evaluation.errors_analysis import ErrorAnalyzer, per_image_counts
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.object_changes import object_changes
from retrain.evaluation.paired_draws import PairedDraws
from retrain.evaluation.served_confidence import limits, lowest, plain, shown_confidence
from retrain.evaluation.slices import size_scores
from tests.unit.evaluation.worlds import evaluation, random_world

CLASSES = ["class 0", "class 1", "class 2"]
APART = dict(zip(CLASSES, (0.2, 0.5, 0.8), strict=True))


def test_every_count_at_the_served_confidence_takes_each_class_at_its_own():
    one = evaluation(*random_world(4, images=30), confidence=APART)
    served = one.served
    expected = one.predictions.scores >= np.array(list(APART.values()))[one.predictions.label]

    assert served.tolist() == (one.matches.counted & expected).tolist()
    hits = served & one.matches.hits[:, 0]
    assert per_image_counts(one).sum(axis=0).tolist()[:2] == [hits.sum(), (served & ~hits).sum()]
    assert (one.summary.n_detections, one.summary.precision) == (served.sum(), hits.sum() / served.sum())
    assert confusion_matrix(one).counts[:, :-1].sum() == served.sum()
    assert confusion_matrix(one).confidence == APART
    wrong = ErrorAnalyzer(one).false_positives()
    assert {row.class_name for row in wrong} == set(CLASSES)
    assert all(row.score >= APART[row.class_name] for row in wrong)
    assert sum(score.n_objects * score.recall for score in size_scores(one) if score.n_objects) == hits.sum()


def test_two_models_are_compared_each_at_its_own():
    found, truth = random_world(4, images=30)
    strict, loose = evaluation(found, truth, confidence=APART), evaluation(found, truth, confidence=0.2)

    draws = PairedDraws(strict, loose, resamples=200, seed=0)
    lost = object_changes(loose, strict).overall

    scored = draws.operating_point()
    for values, one in ((scored.champion, strict), (scored.challenger, loose)):
        expected = [one.summary.precision, one.summary.recall, one.summary.f1]
        assert np.ravel(values[0]).tolist() == pytest.approx(expected)
    assert lost.newly_missed + lost.class_lost > 0


def test_it_is_stored_and_read_back(tmp_path):
    one = evaluation(*random_world(1), confidence=APART)

    one.save(tmp_path / "one.json")

    assert Evaluation.load(tmp_path / "one.json").confidence == APART
    document = json.loads((tmp_path / "one.json").read_bytes())
    for wrong in ({"class 0": 0.1}, {**APART, "class 1": 1.5}, "0.5", None, {**APART, "class 2": "0.5"}):
        (tmp_path / "wrong.json").write_text(json.dumps({**document, "confidence": wrong}))
        with pytest.raises(BadInput, match="served confidence"):
            Evaluation.load(tmp_path / "wrong.json")


def test_a_class_without_one_is_an_error_and_a_class_too_many_is_none():
    assert limits({**APART, "van": 0.1}, CLASSES).tolist() == [0.2, 0.5, 0.8]
    with pytest.raises(BadInput, match="no served confidence for 'van'"):
        limits(APART, [*CLASSES, "van"])


def test_any_kind_of_number_will_do():
    assert limits(np.float32(0.5), CLASSES).tolist() == [0.5] * 3
    assert limits(1, CLASSES).tolist() == [1.0] * 3


def test_it_reads_as_one_number_where_it_is_one():
    assert (plain(APART), plain({"a": 0.4, "b": 0.4})) == (APART, 0.4)
    assert (lowest(APART), lowest(0.4)) == (0.2, 0.4)
    assert (shown_confidence(APART), shown_confidence(0.25)) == ("0.2 to 0.8 by class", "0.25")
