"""`retrain evaluate` and `retrain compare`: their arguments; the work begins with the imports inside."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.config_option import ConfigFile
from retrain.errors import BadInput

if TYPE_CHECKING:
    from retrain.evaluation.evaluator import ModelEvaluator
    from retrain.evaluation.result import EvaluationResult

Data = Annotated[
    str,
    typer.Option(
        "--test-data",
        metavar="DATA",
        help="VERSION/SPLIT such as v1.1.0/test, a folder in COCO, YOLO or VOC format, or a COCO file.",
    ),
]
Metrics = Annotated[
    str,
    typer.Option(metavar="A,B,C", help="Such as map, map50, map75, map_small, ar100, precision, recall, f1."),
]
Split = Annotated[
    str | None, typer.Option(help="Split of a version or folder; default: test, or the only one.")
]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder of the images of a COCO file; default: around it.", file_okay=False),
]
Confidence = Annotated[
    float | None,
    typer.Option(help="Operating point of precision, recall and F1; default: the release's own, else 0.25."),
]
Speed = Annotated[
    bool,
    typer.Option("--speed", help="Also measure latency, throughput and memory, on this machine and now."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:<index>.")]
BatchSize = Annotated[int, typer.Option(help="Images predicted at once.", min=1)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result there as JSON.", dir_okay=False)]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="Write there one HTML page to decide by: curves, errors, slices, crops.",
        dir_okay=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--datasets", help="Folder of the versions; default: dataset.versions_path.", file_okay=False
    ),
]
_DEFAULT = "map,map50,precision,recall,f1"


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Model folder or release, Ultralytics .pt, .onnx, or COCO results as .json.",
        ),
    ],
    test_data: Data,
    metrics: Metrics = _DEFAULT,
    split: Split = None,
    images: Images = None,
    confidence: Confidence = None,
    speed: Speed = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    json: Json = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Keep the evaluation whole there, for later comparisons.", dir_okay=False),
    ] = None,
    report: Report = None,
    datasets: Folder = None,
    config: ConfigFile = None,
) -> None:
    """Score a model on labelled images by COCO's rules. The same again gives the same JSON."""
    from flows.dataset_place import output
    from flows.evaluation_view import show_result

    _check_targets(json, save, report)
    with _evaluator(
        model,
        test_data,
        datasets,
        config,
        metrics=_names(metrics, speed=speed),
        split=split,
        images=images,
        confidence=confidence,
        device=device,
        batch_size=batch_size,
    ) as evaluator:
        result = evaluator.evaluate()
    show_result(result, output())
    if save is not None:
        result.evaluation.save(save)
        _say_written(save)
    _write_json(result.to_json(), json)
    # Last, as most can go wrong with it.
    _write_report(report, evaluator, result)


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Two or more; all are compared with the first.")
    ],
    test_data: Data,
    metrics: Metrics = _DEFAULT,
    split: Split = None,
    images: Images = None,
    confidence: Confidence = None,
    speed: Speed = False,
    device: Device = "cpu",
    batch_size: BatchSize = 16,
    json: Json = None,
    report: Report = None,
    datasets: Folder = None,
    config: ConfigFile = None,
) -> None:
    """Score models on the same images, and say of each whether it is better than the first, with an interval."""
    from flows.dataset_place import output
    from flows.evaluation_view import show_comparison

    _check_targets(json, report)
    if report is not None and len(models) != 2:
        raise BadInput(
            f"--report shows two models beside each other, but {len(models)} are given; leave it out."
        )
    with _evaluator(
        models[0],
        test_data,
        datasets,
        config,
        metrics=_names(metrics, speed=speed),
        split=split,
        images=images,
        confidence=confidence,
        device=device,
        batch_size=batch_size,
    ) as evaluator:
        compared = evaluator.compare_models(models)
    show_comparison(compared, output())
    _write_json(compared.to_json(), json)
    _write_report(report, evaluator, compared.results[-1], compared.results[0])


@contextmanager
def _evaluator(
    model: str, test_data: str, datasets: Path | None, config: Path | None, **asked: Any
) -> Iterator["ModelEvaluator"]:
    """With a bar of its progress on a terminal."""
    from flows.dataset_place import open_datasets, progress_bar
    from retrain.evaluation.evaluator import ModelEvaluator

    with progress_bar() as report:
        yield ModelEvaluator(
            model, test_data, datasets=open_datasets(datasets, config), on_progress=report, **asked
        )


def _write_json(document: Mapping[str, Any], target: Path | None) -> None:
    if target is None:
        return
    from retrain.storage.files import write_whole

    write_whole(target, (dumps(document, indent=2, allow_nan=False) + "\n").encode())
    _say_written(target)


def _write_report(
    target: Path | None,
    evaluator: "ModelEvaluator",
    result: "EvaluationResult",
    before: "EvaluationResult | None" = None,
) -> None:
    if target is None:
        return
    # Drawing takes matplotlib.
    from retrain.evaluation.report.page import ReportPage
    from retrain.storage.files import write_whole

    items = evaluator.data.by_id
    write_whole(target, ReportPage(result, before).html(lambda image: items[image].load()).encode())
    _say_written(target)


def _say_written(target: Path) -> None:
    """Beside the scores, which may be piped."""
    typer.echo(f"wrote {target}", err=True)


def _names(metrics: str, *, speed: bool) -> list[str]:
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    return [*names, "speed"] if speed and "speed" not in names else names


def _check_targets(*targets: Path | None) -> None:
    """Before minutes of work: where the results go must be there, and no two may go to one place."""
    seen = set()
    for target in targets:
        if target is None:
            continue
        if not target.absolute().parent.is_dir():
            raise BadInput(f"Cannot write {target}: there is no folder {target.absolute().parent}.")
        # A new file takes the place of what is there, be it /dev/stdout.
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise BadInput(f"Cannot write {target}: it is a link or a device; name an ordinary file.")
        if (place := target.resolve()) in seen:
            raise BadInput(f"Two results cannot both be written to {target}; give each its own file.")
        seen.add(place)
