"""Pictures of a finished training: how it went, what it trades, and what it sees in some validation images."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from retrain.boxes import Annotations, Detections, yolo_to_xyxy
from retrain.detector import Detector
from retrain.pages.lettering import in_any_script, legible
from retrain.storage.files import write_whole
from retrain.training.labelled_images import LabelledImages
from retrain.training.result import EpochReport
from retrain.training.validation import PrecisionRecall

EPOCHS, CURVES, SAMPLES = "epochs.png", "precision_recall.png", "samples.jpg"
_SHOWN, _COLUMNS, _SIDE = 8, 4, 320
# Lines of more classes than that cannot be told apart.
_NAMED = 20
_TRUE, _FOUND = (60, 200, 90), (255, 140, 0)


def draw_epochs(reports: Sequence[EpochReport], folder: Path) -> Path:
    """Losses and scores of each epoch."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [report.epoch for report in reports]
    for name in reports[0].losses:
        left.plot(epochs, [report.losses[name] for report in reports], marker=".", label=name)
    for name, label in (("map50", "mAP50"), ("map50_95", "mAP50-95")):
        right.plot(epochs, [getattr(report, name) for report in reports], marker=".", label=label)
    left.set(xlabel="epoch", title="training loss")
    right.set(xlabel="epoch", title="validation score", ylim=(0, 1))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    return _save(figure, folder / EPOCHS)


def draw_curves(curves: PrecisionRecall, classes: Sequence[str], folder: Path) -> Path:
    """Precision over recall, a line for each of the classes that the validation images show, and their mean."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    named = len(curves.precision) <= _NAMED
    for name, precision in curves.precision.items():
        label = legible(name, f"class {classes.index(name)}") if named else None
        axes.plot(curves.recall, precision, linewidth=1, label=label)
    if curves.precision:
        mean = np.mean(list(curves.precision.values()), axis=0)
        axes.plot(curves.recall, mean, linewidth=2.5, color="black", label="mean")
        figure.legend(loc="outside right upper", fontsize="small")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="IoU 0.5")
    axes.grid(alpha=0.3)
    return _save(figure, folder / CURVES)


def draw_samples(detector: Detector, images: LabelledImages, folder: Path, confidence: float = 0.25) -> Path:
    """Some validation images, evenly chosen by name: true boxes green, found ones orange with their score."""
    count = min(_SHOWN, len(images))
    chosen = [round(place) for place in np.linspace(0, len(images) - 1, count)]
    pixels = [np.ascontiguousarray(images.load_image(index)[0][..., ::-1]) for index in chosen]
    found = detector.predict(pixels, confidence)
    columns = min(_COLUMNS, count)
    sheet = Image.new("RGB", (columns * _SIDE, -(-count // columns) * _SIDE))
    for number, (index, picture, boxes) in enumerate(zip(chosen, pixels, found, strict=True)):
        drawn = _drawn(picture, _truth(images, index, picture.shape), boxes, detector.classes)
        sheet.paste(drawn, (number % columns * _SIDE, number // columns * _SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90, subsampling=0)  # thin lines keep their colour
    return _write(folder / SAMPLES, buffer)


def _truth(images: LabelledImages, index: int, shape: Sequence[int]) -> Annotations:
    label = images.labels[index]
    boxes = yolo_to_xyxy(label["bboxes"].astype(np.float64), shape[1], shape[0])
    return Annotations(boxes, label["cls"].reshape(-1).astype(np.int64))


def _drawn(picture: np.ndarray, truth: Annotations, found: Detections, classes: Sequence[str]) -> Image.Image:
    scale = _SIDE / max(picture.shape[:2])
    image = Image.fromarray(picture)
    image = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    pen = ImageDraw.Draw(image)
    for box in truth.boxes:
        pen.rectangle((box * scale).tolist(), outline=_TRUE, width=2)
    for box, index, score in zip(found.boxes, found.classes, found.scores, strict=True):
        left, top, *_ = corners = (box * scale).tolist()
        pen.rectangle(corners, outline=_FOUND, width=2)
        said, corner = f"{classes[index]} {score:.2f}", (left + 3, top + 1)
        pen.rectangle(pen.textbbox(corner, said), fill=(0, 0, 0))
        pen.text(corner, said, fill=_FOUND)
    return image


def _save(figure: Figure, target: Path) -> Path:
    buffer = io.BytesIO()
    # On a canvas of its own: nothing of matplotlib's global state, or of a display, is touched.
    FigureCanvasAgg(figure)
    in_any_script(figure)
    figure.savefig(buffer, format="png")
    return _write(target, buffer)


def _write(target: Path, content: io.BytesIO) -> Path:
    write_whole(target, content.getvalue())
    return target
