"""An evaluation, or a challenger beside the champion, as one HTML page that needs nothing but itself."""

import base64
import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from retrain.evaluation.change import Change
from retrain.evaluation.comparator import ModelComparator, ModelComparison
from retrain.evaluation.errors_analysis import ErrorAnalyzer, ErrorRow
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.gate import GateDecision
from retrain.evaluation.object_changes import KINDS, ObjectChange, ObjectChanges, object_changes
from retrain.evaluation.report.crops import FOUND, TRUE, Crop, Pixels, cut_out
from retrain.evaluation.result import EvaluationResult
from retrain.evaluation.slices import all_slices, attributes
from retrain.evaluation.visualizer import Visualizer, pictures
from retrain.evaluation.worst_slices import worst_slices
from retrain.pages.environment import page_environment

TEMPLATES = Path(__file__).parent / "templates"
CROPS = 24
"""Of each kind, the costliest first."""
_MINUS, _NONE = "\u2212", "\u2013"
_DIGEST = re.compile("[0-9a-f]{16,}")

COCO_NAMES: Mapping[str, str] = {
    "map50_95": "mAP50-95",
    "map50": "mAP50",
    "map75": "mAP75",
    "map_small": "mAP, objects below 32 x 32",
    "map_medium": "mAP, objects up to 96 x 96",
    "map_large": "mAP, larger objects",
    "ar1": "average recall, 1 detection a class and image",
    "ar10": "average recall, 10 detections",
    "ar100": "average recall, 100 detections",
    "ar_small": "average recall, below 32 x 32",
    "ar_medium": "average recall, up to 96 x 96",
    "ar_large": "average recall, larger",
}
POINT_NAMES: Mapping[str, str] = {
    "precision": "precision at the served confidence",
    "recall": "recall at the served confidence",
    "f1": "F1 at the served confidence",
    "best_f1": "best F1 at any one confidence",
}
KIND_TITLES: Mapping[str, str] = {
    "newly_missed": "found before, missed now",
    "newly_found": "missed before, found now",
    "class_lost": "now seen as another class",
    "class_corrected": "seen as another class before, right now",
}


@dataclass(frozen=True)
class Compared:
    """What only two models have."""

    before: EvaluationResult
    changes: ModelComparison
    objects: ObjectChanges


@dataclass(frozen=True)
class ScoreRow:
    """One score; `before` and `difference` only where two models are compared.

    Attributes:
        change: the difference with its interval, where there is one.
    """

    name: str
    now: float
    before: float | None = None
    difference: float | None = None
    change: Change | None = None


class ReportPage:
    """An evaluation, or a challenger beside the champion, to be shown as one page, with pictures of images or without.

    What no picture of an image changes is computed once, when the first page is asked for: intervals, curves, types of
    error, slices and the search for worse ones.

    Args:
        before: the model it is compared with, on the same images.
        decision: of the gate about the two.
        resamples, level: of the intervals.
    """

    def __init__(
        self,
        result: EvaluationResult,
        before: EvaluationResult | None = None,
        decision: GateDecision | None = None,
        *,
        resamples: int = 1000,
        level: float = 0.95,
    ) -> None:
        self._result, self._before, self._decision = result, before, decision
        self._resamples, self._level = resamples, level

    def html(self, pixels: Pixels | None) -> str:
        """The whole page as text.

        Args:
            pixels: for crops of what went wrong; without, nothing of an image is shown.

        Raises:
            BadInput: the two are not of the same images, objects and protocol, or an image cannot be read.
        """
        false_positives, false_negatives = self._costliest
        return (
            _environment()
            .get_template("evaluation.html.j2")
            .render(
                **self._values,
                with_crops=pixels is not None,
                false_positives=_error_crops(false_positives, pixels, missed=False),
                false_negatives=_error_crops(false_negatives, pixels, missed=True),
                change_crops=_change_crops(self._compared, pixels),
            )
        )

    @cached_property
    def _values(self) -> Mapping[str, Any]:
        """All that the template shows but pictures of images."""
        result, before, compared = self._result, self._before, self._compared
        evaluation = result.evaluation
        named = attributes(evaluation)
        names = _short_names(*(each.model for each in (before, result) if each is not None))
        visualizer = Visualizer(
            evaluation,
            None if before is None else before.evaluation,
            (names[0], names[-1]),
        )
        return {
            "result": result,
            "before_name": names[0],
            "name": names[-1],
            "sentence": replace(result, model=names[-1]).sentence,
            "scores": _scores(result, compared),
            "notes": tuple(dict.fromkeys((*(before.notes if before else ()), *result.notes))),
            "summary": evaluation.summary,
            "compared": compared,
            "decision": self._decision,
            "verdict": _verdict(self._decision, compared),
            "pictures": [(title, _embedded(png)) for title, png in pictures(visualizer)],
            "confusion": _embedded(visualizer.confusion()),
            "errors_picture": _embedded(visualizer.errors()),
            "tide": self._errors.tide,
            "localisation": self._errors.localisation().quantiles(),
            "worst_images": self._errors.worst_images(20),
            "slices": all_slices(evaluation),
            "search": worst_slices(evaluation, named) if named else None,
            "colours": {"green": TRUE, "orange": FOUND},
            "kinds": KIND_TITLES,
        }

    @cached_property
    def _compared(self) -> Compared | None:
        if self._before is None:
            return None
        pair = self._before.evaluation, self._result.evaluation
        slices = _slices_of(self._result.evaluation)
        comparator = ModelComparator(*pair, resamples=self._resamples, level=self._level)
        return Compared(self._before, comparator.compare(slices), object_changes(*pair, slices))

    @cached_property
    def _errors(self) -> ErrorAnalyzer:
        return ErrorAnalyzer(self._result.evaluation)

    @cached_property
    def _costliest(self) -> tuple[list[ErrorRow], list[ErrorRow]]:
        """Wrong detections, and missed objects."""
        return self._errors.false_positives(CROPS), self._errors.false_negatives(CROPS)


def _slices_of(evaluation: Evaluation) -> dict[str, list[str]]:
    """Image ids by "attribute: value", for attributes that tell a few kinds of images apart."""
    found: dict[str, list[str]] = {}
    for name in attributes(evaluation):
        values = [each.get(name) for each in evaluation.truth.attributes]
        if not all(value is None or isinstance(value, str | bool) for value in values):
            continue
        if 1 < len(set(values)) <= 30:
            for image, value in zip(evaluation.truth.images, values, strict=True):
                if value is not None:
                    found.setdefault(f"{name}: {value}", []).append(image)
    return found


def _verdict(decision: GateDecision | None, compared: Compared | None) -> tuple[str, str] | None:
    """In one word, and why."""
    if decision is not None:
        rule = decision.decided_by
        return decision.verdict, rule.said if rule else decision.reasons[0]
    if compared is None:
        return None
    change = compared.changes.metrics["map50"]
    return change.verdict, change.unusable or (
        f"mAP50 {signed(change.difference)}, {100 * compared.changes.level:g}% interval {signed(change.low)} to "
        f"{signed(change.high)}. No gate was asked."
    )


def _scores(result: EvaluationResult, compared: Compared | None) -> Mapping[str, list[ScoreRow]]:
    """Of each table by its heading."""
    now = _all_scores(result)
    before = None if compared is None else _all_scores(compared.before)
    changes = {} if compared is None else compared.changes.metrics

    def row(key: str, name: str) -> ScoreRow:
        if before is None:
            return ScoreRow(name, now[key])
        return ScoreRow(name, now[key], before[key], now[key] - before[key], changes.get(key))

    tables = {"COCO": COCO_NAMES, "IoU 0.5, all classes together": POINT_NAMES}
    return {heading: [row(*each) for each in names.items()] for heading, names in tables.items()}


def _all_scores(result: EvaluationResult) -> Mapping[str, float]:
    summary = result.evaluation.summary
    return {**summary.coco, **{key: getattr(summary, key) for key in POINT_NAMES}}


def _error_crops(rows: Iterable[ErrorRow], pixels: Pixels | None, *, missed: bool) -> list[Crop]:
    crops: list[Crop] = []
    if pixels is None:
        return crops
    for row in rows:
        boxes = [(row.box, TRUE if missed else FOUND)]
        if row.other_box is not None:
            boxes.insert(0, (row.other_box, FOUND if missed else TRUE))
        if missed:
            other = f", seen as {row.other_class} with score {row.score:.2f}" if row.other_class else ""
        else:
            other = f", there is {row.other_class}" if row.other_class else ""
        crops.append(
            Crop(
                cut_out(pixels(row.image_id), row.box, boxes),
                row.class_name if missed else f"{row.class_name} with score {row.score:.2f}",
                f"{row.type}{other}; costs {row.cost:.4f}",
                row.image_id,
            )
        )
    return crops


def _change_crops(compared: Compared | None, pixels: Pixels | None) -> Mapping[str, list[Crop]]:
    """The first of each kind."""
    crops: dict[str, list[Crop]] = {kind: [] for kind in KINDS}
    if compared is None or pixels is None:
        return crops
    for change in compared.objects.changes:
        if len(crops[change.kind]) < CROPS:
            crops[change.kind].append(_change_crop(change, pixels))
    return crops


def _change_crop(change: ObjectChange, pixels: Pixels) -> Crop:
    seen = change.challenger or change.champion
    boxes = [(change.box, TRUE)] + ([(seen.box, FOUND)] if seen else [])
    said = [
        f"{who} {one.class_name} {one.score:.2f}"
        for who, one in (("before:", change.champion), ("now:", change.challenger))
        if one
    ]
    return Crop(
        cut_out(pixels(change.image_id), change.box, boxes),
        change.class_name,
        ", ".join(said) or "not seen",
        change.image_id,
    )


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = page_environment(TEMPLATES)
    environment.filters |= {"score": score, "signed": signed, "interval": interval, "count": count}
    return environment


def score(value: float | None, digits: int = 3) -> str:
    """A dash where nothing defines it."""
    return _NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """With its sign."""
    if math.isnan(value):
        return _NONE
    return f"{'+' if value >= 0 else _MINUS}{abs(value):.{digits}f}"


def interval(change: Change, *, family: bool = False) -> str:
    """Of the difference, or why there is none."""
    low, high = (change.family_low, change.family_high) if family else (change.low, change.high)
    return _NONE if math.isnan(low) else f"{signed(low)} to {signed(high)}"


def count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _short_names(*models: str) -> tuple[str, ...]:
    """The ends of their paths, as long as it takes to tell the models apart."""
    for depth in range(1, max(len(Path(model).parts) for model in models) + 1):
        short = tuple(_short(model, depth) for model in models)
        if len(set(short)) == len(set(models)):
            return short
    return models


def _short(model: str, depth: int) -> str:
    """The last parts of a path, of digests their beginning."""
    parts = Path(model).parts
    # The folder of every job's model is called so.
    shown = parts[-depth - (parts[-1:] == ("model",)) :]
    return str(Path(*(f"{part[:8]}…" if _DIGEST.fullmatch(part) else part for part in shown)))
