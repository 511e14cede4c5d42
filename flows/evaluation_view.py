"""Evaluations and comparisons as people read them on a terminal."""

import math
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from retrain.evaluation.comparator import Comparison
from retrain.evaluation.matching import MAX_DETECTIONS
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.result import ComparedModels, EvaluationResult, shown
from retrain.evaluation.speed import PARTS, SpeedReport

_COLOURS = {"better": "green", "worse": "red", "invalid": "red"}


def show_result(result: EvaluationResult, console: Console) -> None:
    """The sentence, asked metrics, each class, speed, notes, and how it was measured."""
    _say(console, result.sentence)
    _print(console, ("metric", "value"), [(name, shown(value)) for name, value in _numbers(result)])
    _print(
        console,
        ("class", "objects", "AP50", "AP50-95", "served from", "precision", "recall", "F1", "best F1", "at"),
        [
            (
                name,
                str(one.n_objects),
                *map(shown, (one.ap50, one.ap50_95)),
                f"{one.confidence:.3g}",
                *map(shown, (one.precision, one.recall, one.f1, one.best_f1, one.best_confidence)),
            )
            for name, one in result.evaluation.summary.classes.items()
        ],
    )
    _show_speed([result], console)
    _show_notes(result.notes, console)
    _say(console, protocol_line(result.evaluation.protocol, str(result.served), result.served.origin))


def show_comparison(compared: ComparedModels, console: Console) -> None:
    """A row for each model, then what may be concluded."""
    names = [name for name, _ in _numbers(compared.results[0])]
    metrics = list(dict.fromkeys(each.comparison.metric for each in compared.differences))
    rows = []
    for row in compared.table():
        cells: list[str | Text] = [row["model"], *(shown(row[name]) for name in names)]
        rows.append([*cells, *(_difference(row["differences"].get(metric)) for metric in metrics)])
    _print(console, ("model", *names, *(f"Δ {metric}" for metric in metrics)), rows)
    _say(console, compared.sentence)
    _show_speed(compared.results, console)
    _show_notes(dict.fromkeys(note for result in compared.results for note in result.notes), console)
    first = compared.results[0]
    _say(console, protocol_line(first.evaluation.protocol, *_confidences(compared)))


def protocol_line(protocol: EvaluationProtocol, confidence: str, origin: str) -> str:
    """How it was measured, in one line."""
    return (
        f"protocol: {protocol.runtime}, boxes from confidence {protocol.confidence:g}, NMS IoU {protocol.nms_iou:g}, "
        f"at most {protocol.max_detections} boxes an image; COCO matching at IoU 0.50:0.05:0.95, 101 recall levels, "
        f"{MAX_DETECTIONS} boxes a class and image; precision, recall and F1 at IoU 0.5 and confidence {confidence} "
        f"({origin})"
    )


def _confidences(compared: ComparedModels) -> tuple[str, str]:
    served = dict.fromkeys((str(one.served), one.served.origin) for one in compared.results)
    return ", ".join(value for value, _ in served), ", ".join(dict.fromkeys(origin for _, origin in served))


def _numbers(result: EvaluationResult) -> list[tuple[str, float]]:
    return [(name, value) for name, value in result.metrics.items() if not isinstance(value, SpeedReport)]


def _difference(comparison: Comparison | None) -> Text:
    if comparison is None:
        return Text("first")
    numbers = comparison.difference, comparison.low, comparison.high
    difference, low, high = ("-" if math.isnan(number) else f"{number:+.4f}" for number in numbers)
    said = f"{difference} [{low}, {high}] {comparison.verdict}"
    return Text(said, style=_COLOURS.get(comparison.verdict, ""))


def _show_speed(results: Iterable[EvaluationResult], console: Console) -> None:
    reports = [result.speed for result in results if result.speed is not None]
    if not reports:
        return
    sizes = list(reports[0].throughput)
    _print(
        console,
        (
            "model",
            "FPS",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            *(f"{part} ms" for part in PARTS),
            *(f"images/s at {size}" for size in sizes),
            "peak MB",
        ),
        [
            (
                one.model,
                f"{one.fps:.1f}",
                *(f"{value:.1f}" for value in (one.latency.p50, one.latency.p90, one.latency.p99)),
                *(f"{one.parts[part].p50:.1f}" for part in PARTS),
                *(f"{one.throughput[size]:.1f}" for size in sizes),
                "-" if one.peak_memory_mb is None else f"{one.peak_memory_mb:.0f}",
            )
            for one in reports
        ],
    )
    machine, rounds = reports[0].machine, reports[0].plan.rounds
    busy = "; the machine was busy, so compare models with each other only" if machine.is_busy else ""
    _say(
        console,
        f"speed: {machine.gpu or machine.processor}, {machine.cores} cores, {machine.threads} threads, load "
        f"{machine.load:g}, torch {machine.torch}, onnxruntime {machine.onnxruntime}; {rounds} images each, models in "
        f"turns{busy}",
    )


def _show_notes(notes: Iterable[str], console: Console) -> None:
    for note in notes:
        _say(console, f"note: {note}")


def _say(console: Console, text: str) -> None:
    console.print(Text(text))


def _print(console: Console, columns: Iterable[str], rows: Iterable[Iterable[str | Text]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As text, because markup would swallow a folder called [new].
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    console.print(table)
