import logging
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

import flows.continuous_retraining
from flows.continuous_retraining import run_cycle
from retrain.config import RetrainConfig
from retrain.data_collection.forgetting.tombstones import bury
from retrain.errors import NotFound, StorageFull, Unavailable
from retrain.evaluation.gate import GateDecision
from retrain.evaluation.policy import GatePolicy
from retrain.evaluation.report.page import ReportPage
from tasks.cycle import CycleWork
from tasks.evaluation import gate
from tasks.evaluation_report import SHARED_PAGE, report_evaluation
from tasks.proofs import prove_cycle
from tasks.resources import Resources
from tests.unit.tasks.evaluated_cycle import compared, opened_cycle, pair, stored_versions

PLAN, VERSION = {"known_version": "v1.0.0", "champion": "0" * 64}, {"name": "v1.1.0"}
TRAINING = {"run_id": "r", "job_id": "j", "weights_sha256": "1" * 64, "model_folder": "challenger"}
DECIDED = GateDecision("better", True, ("all rules hold",)).to_json()
PAGE = "cycles/cycle-manual/evaluation.html"


@pytest.fixture
def home(tmp_path, monkeypatch):
    config = {"model": {"name": "m"}, "evaluation": {"resamples": 200}}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    made.__dict__["tracker"] = MagicMock()
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    items = [SimpleNamespace(image_id=image, load=lambda: pixels) for image in pair()[0].truth.images]
    monkeypatch.setattr("tasks.evaluation_report.judged_items", lambda resources, version: items)
    monkeypatch.setattr("tasks.evaluation_report.get_run_logger", lambda: logging.getLogger("run"))
    stored_versions(made)
    made.datasets.repository = MagicMock()
    made.datasets.repository.read.side_effect = NotFound("no file")
    yield made
    made.state.close()


@pytest.fixture
def artifact(monkeypatch):
    made = MagicMock()
    monkeypatch.setattr("tasks.evaluation_report.create_markdown_artifact", made)
    return made


@pytest.fixture
def drawing(monkeypatch):
    """Let drawing fail with this error, or give this page."""

    def becomes(result):
        monkeypatch.setattr(ReportPage, "html", MagicMock(side_effect=[result] * 2))

    return becomes


@contextmanager
def opened(home):
    with opened_cycle(home, evaluated=compared()) as cycle:
        cycle.stage("train", {}, lambda: TRAINING)
        yield CycleWork(cycle, home)


def reported(home, decided=DECIDED):
    with opened(home) as work:
        return report_evaluation.fn(work, PLAN, VERSION, TRAINING, decided)


def proof(home):
    return {one.stage: one for one in prove_cycle(home, "cycle-manual")}["report"]


def test_the_page_is_kept_here_with_pictures_of_images_and_in_mlflow_without(home, artifact):
    assert reported(home) == {"page": PAGE, "problem": None}

    page = home.home / PAGE
    assert "image/jpeg" in page.read_text()
    assert "image/jpeg" not in page.with_name(SHARED_PAGE).read_text()
    home.tracker.run.assert_called_with("r")
    home.tracker.run.return_value.log_artifact.assert_called_once_with(page.with_name(SHARED_PAGE))
    shown = artifact.call_args.kwargs
    assert shown["key"] == "gate"
    assert shown["markdown"].startswith("## better\n")
    assert shown["markdown"].endswith(f"The whole evaluation: `{page}`")
    assert (proof(home).holds, proof(home).said) == (
        True,
        f"{PAGE} is there, and MLflow has it without pictures",
    )


@pytest.mark.parametrize(
    "policy", [None, {"must_improve": [{"metric": "map50"}], "resamples": 300, "level": 0.9}]
)
def test_intervals_are_those_of_the_rules_that_decided(home, artifact, policy):
    rules = {} if policy is None else {"policy": GatePolicy.of(policy).to_json()}

    reported(home, {**DECIDED, **rules})

    said = "Intervals at 95% from 200" if policy is None else "Intervals at 90% from 300"
    assert said in (home.home / PAGE).read_text()


@pytest.mark.parametrize(
    ("thresholds", "origin"), [("fixed", "evaluation.confidence"), ("lrp", "thresholds fitted on val")]
)
def test_the_page_says_which_digests_name_the_models_and_where_confidences_come_from(
    home, artifact, thresholds, origin
):
    evaluation = home.config.evaluation.model_copy(update={"thresholds": thresholds})
    home.config = home.config.model_copy(update={"evaluation": evaluation})

    reported(home)

    page = (home.home / PAGE).read_text()
    champion, challenger = f"champion (release {'0' * 12})", f"challenger (weights {'1' * 12})"
    assert f"<title>{challenger} against {champion} on v1.1.0/test</title>" in page
    assert f"<dt>that of {champion}</dt><dd>0.25, from its release</dd>" in page
    assert f"<dt>served confidence</dt><dd>0.25, from {origin}</dd>" in page


@pytest.mark.parametrize("error", [ValueError("no glyph\nfor it"), MemoryError("no glyph for it")])
def test_a_page_that_cannot_be_drawn_is_logged_recorded_and_said_beside_the_verdict(
    home, artifact, drawing, caplog, error
):
    drawing(error)

    problem = f"{type(error).__name__}: no glyph for it"
    assert reported(home) == {"page": None, "problem": problem}

    (record,) = caplog.records
    assert (record.levelname, record.exc_info[1]) == ("ERROR", error)
    assert artifact.call_args.kwargs["markdown"].startswith("## better\n")
    assert artifact.call_args.kwargs["markdown"].endswith(f"The page could not be drawn: {problem}")
    home.tracker.run.assert_not_called()
    assert not (home.home / PAGE).exists()
    assert proof(home).holds
    assert proof(home).said.endswith(f"it could not be drawn: {problem}")


def test_a_page_that_cannot_be_encoded_stops_nothing_either(home, artifact, drawing):
    drawing("\udc80")

    assert reported(home)["problem"].startswith("UnicodeEncodeError: ")


@pytest.mark.parametrize("error", [Unavailable("no answer"), StorageFull("no space")])
def test_surroundings_that_fail_are_not_taken_for_a_page_that_cannot_be_drawn(home, artifact, drawing, error):
    drawing(error)
    with pytest.raises(type(error)):
        reported(home)

    drawing("a page")
    home.tracker.run.return_value.log_artifact.side_effect = error
    with pytest.raises(type(error)):
        reported(home)

    home.tracker.run.return_value.log_artifact.side_effect = None
    drawing("a page")
    assert reported(home)["problem"] is None


@pytest.mark.parametrize(("verdict", "status"), [("better", "promoted"), ("worse", "kept_champion")])
def test_a_cycle_whose_page_cannot_be_drawn_goes_on(home, artifact, drawing, monkeypatch, verdict, status):
    drawing(ValueError("no glyph"))
    monkeypatch.setattr(
        "tasks.evaluation.decide", lambda *_: GateDecision(verdict, verdict == "better", ("forced",))
    )
    labels = {"auto": [], "human": [], "left_out": {}}
    stages = {
        "plan_cycle": PLAN, "select_batch": {"sample_ids": ["a"]}, "annotate": labels, "build_version": VERSION,
        "lay_out": {}, "train": TRAINING, "fit_serving_thresholds": 0.25, "evaluate_models": compared(),
        "register_release": {}, "promote": {},
    }  # fmt: skip
    for name, output in stages.items():
        monkeypatch.setattr(flows.continuous_retraining, name, MagicMock(return_value=output))
    monkeypatch.setattr(flows.continuous_retraining, "gate", gate.fn)
    monkeypatch.setattr(flows.continuous_retraining, "report_evaluation", report_evaluation.fn)
    finish = MagicMock()
    monkeypatch.setattr(flows.continuous_retraining, "finish_cycle", finish)

    with opened(home) as work:
        run_cycle(work)

    assert finish.call_args.args[1] == status
    # The verdict was shown before anything was drawn.
    first, second = (call.kwargs["markdown"] for call in artifact.call_args_list)
    assert first.startswith(f"## {verdict}\n")
    assert "page" not in first
    assert second == f"{first}\n\nThe page could not be drawn: ValueError: no glyph"
    assert proof(home).said.endswith("no glyph")


def test_a_page_or_its_copy_in_mlflow_that_was_lost_is_missed(home, artifact, drawing):
    drawing("a page")
    reported(home)

    (home.home / PAGE).unlink()
    assert not proof(home).holds
    assert "is gone, and none of its images was forgotten" in proof(home).said
    home.tracker.run.return_value.has_file.return_value = False
    assert not proof(home).holds
    assert proof(home).said == f"MLflow run r has no {SHARED_PAGE} any more."
    home.tracker.run.return_value.has_file.assert_called_with(SHARED_PAGE)


@pytest.mark.parametrize("where", ["collection", "dataset"])
def test_a_page_that_may_have_gone_with_a_forgotten_image_is_no_fault(home, artifact, drawing, where):
    drawing("a page")
    reported(home)
    (home.home / PAGE).unlink()
    image = pair()[0].truth.images[0]

    if where == "collection":
        with home.state.write() as connection:
            bury(connection, "sample", [image], 1.0)
    else:
        line = f'{{"image":"{image}","reason":"request 7","at":1.0}}\n'
        home.datasets.repository.read = lambda *_: line.encode()

    assert proof(home).holds
    assert f"{PAGE} is gone; 1 of the test images were forgotten since" in proof(home).said
