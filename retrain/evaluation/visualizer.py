"""Pictures of an evaluation, as PNG."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from retrain.boxes import FloatArray
from retrain.errors import BadInput
from retrain.evaluation.calibration import calibration
from retrain.evaluation.confusion import confusion_matrix
from retrain.evaluation.curves import ClassCurves, Curves, curves
from retrain.evaluation.errors_analysis import ErrorAnalyzer
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.served_confidence import shown_confidence
from retrain.pages.lettering import in_any_script, legible

# More lines, or names beside a matrix, cannot be told apart.
_NAMED = 12
_MATRIX = 30
_COLOURS = ("#14708a", "#b06a1c")
_PLAIN = "#8a8d90"


class Visualizer:
    """Draws one model's evaluation, or that of two on the same images: the first dashed, the second whole.

    Args:
        evaluation: what is shown.
        before: of the model it is compared with.
        names: of both, in the order drawn.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        before: Evaluation | None = None,
        names: tuple[str, str] = ("before", "after"),
    ) -> None:
        if before is not None and before.truth.digest != evaluation.truth.digest:
            raise BadInput("The two evaluations are not of the same images and objects; draw each alone.")
        self._evaluation, self._before = evaluation, before
        self._names = legible(names[0], "before"), legible(names[1], "after")

    @cached_property
    def _curves(self) -> list[tuple[str, str, Curves]]:
        """Name, line style and curves, the most important last."""
        shown = [(self._names[1], "-", curves(self._evaluation))]
        return shown if self._before is None else [(self._names[0], "--", curves(self._before)), *shown]

    def precision_recall(self) -> bytes:
        """Interpolated precision over recall: all classes together thick, each thin."""
        return self._lines(
            "recall",
            "precision",
            lambda c: (c.operating.recall, c.operating.interpolated),
            title="precision over recall",
        )

    def f1(self) -> bytes:
        return self._over_confidence("F1", lambda c: c.operating.f1)

    def precision(self) -> bytes:
        return self._over_confidence("precision", lambda c: c.operating.precision)

    def recall(self) -> bytes:
        return self._over_confidence("recall", lambda c: c.operating.recall)

    def image_presence_roc(self) -> bytes:
        """Does an image hold the class? By the best score in it."""
        return self._lines(
            "images without the class that are taken",
            "images with it that are taken",
            lambda c: (c.image_presence_roc.false_positive_rate, c.image_presence_roc.true_positive_rate),
            title="ROC: is the class in the image?",
        )

    def box_correctness_roc(self) -> bytes:
        """Is a detection right? By its score; missed objects do not enter."""
        return self._lines(
            "wrong detections that are taken",
            "right detections that are taken",
            lambda c: (c.box_correctness_roc.false_positive_rate, c.box_correctness_roc.true_positive_rate),
            title="ROC: is the detection right?",
        )

    def froc(self) -> bytes:
        """Share of objects found over false alarms per image."""
        return self._lines(
            "false alarms per image",
            "objects found",
            lambda c: (c.froc.false_positives_per_image, c.froc.sensitivity),
            title="FROC",
            limits=None,
        )

    def reliability(self) -> bytes:
        """Share of right detections by confidence; on the diagonal confidence says what it means."""
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=_PLAIN, linewidth=1, linestyle=":")
        shown = [self._evaluation] if self._before is None else [self._before, self._evaluation]
        names = self._names[-len(shown) :]
        for name, evaluation, style, colour in zip(
            names, shown, ("--", "-")[-len(shown) :], _COLOURS[::-1][-len(shown) :], strict=True
        ):
            found = calibration(evaluation).overall
            bins = [each for each in found.bins if each.count]
            axes.plot(
                [each.confidence for each in bins],
                [each.precision for each in bins],
                style,
                marker="o",
                markersize=4,
                color=colour,
                label=f"{name}: ECE {found.ece:.3f}" if found.count else f"{name}: no detections",
            )
        axes.set(
            xlabel="confidence",
            ylabel="share that is right",
            xlim=(0, 1),
            ylim=(0, 1.02),
            title="calibration",
        )
        axes.legend(fontsize="small")
        return _png(figure)

    def confusion(self) -> bytes:
        """Of the shown model at its served confidence: true classes down, predicted ones across."""
        found = confusion_matrix(self._evaluation)
        shares, names = found.by_truth, [*_class_names(found.classes), "background"]
        side = min(3.4 + 0.34 * len(names), 11.0)
        figure, axes = _figure(side, side * 0.86)
        # Wrong detections are no share of background.
        shown = np.vstack([shares[:-1], np.full((1, len(names)), np.nan)])
        axes.grid(visible=False)
        picture = axes.imshow(shown, vmin=0, vmax=1, cmap="GnBu")
        if len(names) <= _MATRIX:
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
            axes.set_yticks(range(len(names)), names)
        if len(names) <= _NAMED:
            for row, column in np.argwhere(found.counts > 0):
                dark = np.nan_to_num(shown[row, column]) > 0.6
                axes.text(
                    column, row, str(found.counts[row, column]), ha="center", va="center",
                    fontsize="small", color="white" if dark else "black",
                )  # fmt: skip
        figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
        axes.set(
            xlabel="predicted",
            ylabel="true",
            title=f"confusion at confidence {shown_confidence(found.confidence)}, IoU {found.iou:g}",
        )
        return _png(figure)

    def errors(self) -> bytes:
        """What fixing each type of error alone would bring (TIDE), in mAP50."""
        figure, axes = _figure(6.4, 3.2)
        shown = [self._evaluation] if self._before is None else [self._before, self._evaluation]
        names, colours = self._names[-len(shown) :], _COLOURS[::-1][-len(shown) :]
        height = 0.8 / len(shown)
        for place, (name, evaluation, colour) in enumerate(zip(names, shown, colours, strict=True)):
            tide = ErrorAnalyzer(evaluation).tide
            kinds = list(tide.delta_ap)[::-1]
            at = np.arange(len(kinds)) + (len(shown) - 1 - 2 * place) * height / 2
            values = np.nan_to_num([tide.delta_ap[kind] for kind in kinds])
            axes.barh(at, values, height, color=colour, label=name)
            axes.set_yticks(range(len(kinds)), kinds)
        axes.set(xlabel="mAP50 gained if fixed", title="errors by type (gains do not add up)")
        axes.legend(fontsize="small")
        return _png(figure)

    def _over_confidence(self, name: str, of: Callable[[ClassCurves], FloatArray]) -> bytes:
        served = self._evaluation.confidence
        return self._lines(
            "confidence",
            name,
            lambda c: (c.operating.confidence, of(c)),
            title=f"{name} over confidence",
            # Where each class has its own, one line would be true of none.
            served=None if isinstance(served, Mapping) else served,
        )

    def _lines(
        self,
        across: str,
        up: str,
        of: Callable[[ClassCurves], tuple[FloatArray, FloatArray]],
        *,
        title: str,
        limits: tuple[float, float] | None = (0, 1),
        served: float | None = None,
    ) -> bytes:
        figure, axes = _figure()
        several = len(self._curves) > 1
        for place, (name, style, found) in enumerate(self._curves):
            colour = _COLOURS[::-1][-len(self._curves) :][place]
            last = place == len(self._curves) - 1
            if last and len(found.classes) > 1:
                self._each_class(axes, found, of)
            axes.plot(
                *of(found.overall),
                style,
                color=colour,
                linewidth=2.4,
                label=name if several else "all classes",
            )
        if served is not None:
            axes.axvline(served, color=_PLAIN, linewidth=1, linestyle=":", label=f"served: {served:g}")
        axes.set(xlabel=across, ylabel=up, ylim=(0, 1.02), title=title)
        axes.set_xlim(*(limits or (0, 10)))
        axes.legend(fontsize="small")
        return _png(figure)

    def _each_class(
        self, axes: Axes, found: Curves, of: Callable[[ClassCurves], tuple[FloatArray, FloatArray]]
    ) -> None:
        named = len(found.classes) <= _NAMED and len(self._curves) == 1
        for name, each in zip(_class_names(found.classes), found.classes.values(), strict=True):
            if named:
                axes.plot(*of(each), linewidth=1, label=name)
            else:
                axes.plot(*of(each), linewidth=0.8, color=_PLAIN, alpha=0.35)
        if not named:
            # The lines themselves are too pale to be known again in a legend.
            axes.plot([], [], linewidth=1, color=_PLAIN, label="each class")


def _figure(width: float = 5.6, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    return figure, axes


def _class_names(classes: Iterable[str]) -> list[str]:
    """By its number from 0 where no installed font has the name's letters; tables have the name."""
    return [legible(name, f"class {index}") for index, name in enumerate(classes)]


def _png(figure: Figure) -> bytes:
    in_any_script(figure)
    buffer = io.BytesIO()
    # Without a date and a version, so that the same evaluation is the same picture.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def pictures(visualizer: Visualizer) -> Sequence[tuple[str, bytes]]:
    """All curves with what they show, in the order of a report."""
    return [
        ("precision over recall", visualizer.precision_recall()),
        ("F1 over confidence", visualizer.f1()),
        ("precision over confidence", visualizer.precision()),
        ("recall over confidence", visualizer.recall()),
        ("objects found over false alarms", visualizer.froc()),
        ("calibration", visualizer.reliability()),
        ("ROC of image presence", visualizer.image_presence_roc()),
        ("ROC of box correctness", visualizer.box_correctness_roc()),
    ]
