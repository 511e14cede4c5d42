"""`retrain evaluate` and `retrain compare` on a real model, as a person types them."""

import json
import os
import sys
from pathlib import Path

import pytest

from flows.cli import main
from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput
from retrain.evaluation.evaluation import Evaluation
from tests.integration.evaluation.conftest import Models


@pytest.fixture
def retrain(monkeypatch, capfd, tmp_path):
    """Exit code, output and errors of a command."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["retrain", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capfd.readouterr()

    return run


def test_a_model_is_scored_shown_and_written_the_same_twice(
    models: Models, versions: DatasetManager, tmp_path: Path, retrain
) -> None:
    asked = ["evaluate", "--model", models.pt, "--test-data", "v1.0.0/test"]
    asked += ["--datasets", versions.repository.folder, "--metrics", "map,precision,recall"]
    first, second, kept = tmp_path / "1.json", tmp_path / "2.json", tmp_path / "evaluation.json"

    code, shown, errors = retrain(*asked, "--json", first, "--save", kept)
    again = retrain(*asked, "--json", second)

    assert (code, errors) == (0, f"wrote {kept}\nwrote {first}\n")
    assert again == (0, shown, f"wrote {second}\n")
    assert first.read_bytes() == second.read_bytes()
    document = json.loads(first.read_text())
    assert list(document["metrics"]) == ["map", "precision", "recall"]
    lines = shown.splitlines()
    assert lines[0].startswith(
        f"{models.pt} on v1.0.0/test: mAP50-95 {document['metrics']['map']:.4f}, mAP50 "
    )
    cells = [line.split() for line in lines]
    assert ["map", f"{document['metrics']['map']:.4f}"] in cells
    classes = [(row[0], row[4]) for row in cells if len(row) == 10 and row[0] in "abc"]
    assert classes == [(name, "0.25") for name in "abc"]
    assert lines[-1].startswith(
        "protocol: torch, boxes from confidence 0.001, NMS IoU 0.7, at most 300 boxes"
    )
    assert lines[-1].endswith("confidence 0.25 (default)")
    assert Evaluation.load(kept).summary.map50_95 == document["metrics"]["map"]


def test_models_are_compared_and_written(
    models: Models, versions: DatasetManager, tmp_path: Path, retrain
) -> None:
    target = tmp_path / "compared.json"

    code, shown, errors = retrain(
        "compare", models.folder, models.onnx, models.other, "--test-data", "v1.0.0/test", "--datasets",
        versions.repository.folder, "--metrics", "map50", "--json", target,
    )  # fmt: skip

    assert (code, errors) == (0, f"wrote {target}\n")
    document = json.loads(target.read_text())
    assert [each["model"] for each in document["differences"]] == [str(models.onnx), str(models.other)]
    same, worse = document["differences"]
    assert (same["verdict"], same["difference"]) == ("inconclusive", pytest.approx(0, abs=0.01))
    # How surely it is worse depends on the few recordings there are.
    assert worse["difference"] < -0.1
    assert worse["verdict"] == ("worse" if worse["high"] < 0 else "inconclusive")
    rows = [line for line in shown.splitlines() if line.startswith(str(models.other))]
    assert f"{worse['low']:+.4f}" in rows[0]
    assert rows[0].rstrip().endswith(worse["verdict"])
    assert rows[1].endswith(worse["reason"])
    assert "note: The models were run by onnxruntime and torch" in shown


def test_a_report_of_one_and_of_two_models_is_one_page(
    models: Models, versions: DatasetManager, tmp_path: Path, retrain
) -> None:
    data = ["--test-data", "v1.0.0/test", "--datasets", versions.repository.folder, "--metrics", "map50"]
    one, two = tmp_path / "one.html", tmp_path / "two.html"

    assert retrain("evaluate", "--model", models.folder, *data, "--report", one)[0] == 0
    code, _, errors = retrain("compare", models.other, models.folder, *data, "--report", two)
    refused, _, why = retrain("compare", models.other, models.folder, models.onnx, *data, "--report", two)

    assert (code, errors) == (0, f"wrote {two}\n")
    assert "No gate was asked" in two.read_text()
    assert "found before, missed now" in two.read_text()
    assert "data:image/jpeg" in one.read_text()
    assert "No gate was asked" not in one.read_text()
    assert refused == 1
    assert "--report shows two models beside each other, but 3 are given" in why


def test_speed_is_shown_when_asked_for(models: Models, coco_folder: Path, retrain) -> None:
    code, shown, _ = retrain("evaluate", "--model", models.onnx, "--test-data", coco_folder, "--speed")

    assert code == 0
    assert "FPS" in shown
    assert "100 images each, models in turns" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("evaluate --model none.pt --test-data {data}", "There is no model 'none.pt'"),
        ("evaluate --model {model} --test-data v1.0.0/test", "There is no test data 'v1.0.0'"),
        ("evaluate --model {model} --test-data {data} --metrics map,mapp", "Unknown metrics 'mapp'"),
        ("evaluate --model {model} --test-data {data} --json /nowhere/x.json", "there is no folder /nowhere"),
        (
            "evaluate --model {model} --test-data {data} --json /tmp/a --save /tmp/a",
            "Two results cannot both",
        ),
        ("compare {model} --test-data {data}", "two models or more"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, models: Models, coco_folder: Path, retrain) -> None:
    code, shown, errors = retrain(*arguments.format(model=models.folder, data=coco_folder).split())

    assert (code, shown) == (1, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert said in errors


def test_a_page_that_cannot_be_written_costs_none_of_the_scores(
    models: Models, coco_folder: Path, tmp_path: Path, retrain, monkeypatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise BadInput("Image 0001.png cannot be read any more.")

    monkeypatch.setattr("retrain.evaluation.report.page.ReportPage.html", broken)
    kept, page = tmp_path / "result.json", tmp_path / "page.html"
    asked = [
        "evaluate",
        "--model",
        models.folder,
        "--test-data",
        coco_folder,
        "--json",
        kept,
        "--report",
        page,
    ]

    code, shown, errors = retrain(*asked)

    assert (code, errors) == (1, f"wrote {kept}\nerror: Image 0001.png cannot be read any more.\n")
    assert f"mAP50 {json.loads(kept.read_text())['summary']['map50']:.4f}" in shown
    assert not page.exists()


def test_what_cannot_be_judged_is_shown_as_a_dash(
    models: Models, versions: DatasetManager, tmp_path: Path, retrain
) -> None:
    asked = ["compare", models.folder, models.other, "--test-data", "v1.0.0/train"]

    code, shown, _ = retrain(*asked, "--datasets", versions.repository.folder)

    assert code == 0
    assert "[-, -] invalid" in shown
    assert "nan" not in shown


def test_a_link_or_a_pipe_is_not_replaced_by_a_file(
    models: Models, coco_folder: Path, tmp_path: Path, retrain
) -> None:
    kept, link, pipe = tmp_path / "kept.json", tmp_path / "link.json", tmp_path / "pipe"
    kept.write_text("kept")
    link.symlink_to(kept)
    os.mkfifo(pipe)

    for target in (link, pipe):
        code, shown, errors = retrain(
            "evaluate", "--model", models.folder, "--test-data", coco_folder, "--json", target
        )

        assert (code, shown) == (1, "")
        assert errors == f"error: Cannot write {target}: it is a link or a device; name an ordinary file.\n"
    assert (kept.read_text(), link.is_symlink(), pipe.is_fifo()) == ("kept", True, True)
