"""Detections drawn over a frame: right, wrong and missed, told apart by colour, line and label."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from retrain.boxes import Annotations, Detections, FloatArray, iou_matrix
from retrain.monitoring.report import Picture

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """Which detections are right or wrong, and which true boxes nobody found, as indices."""

    right: tuple[int, ...]
    wrong: tuple[int, ...]
    missed: tuple[int, ...]

    def __str__(self) -> str:
        counts = {"right": self.right, "wrong": self.wrong, "missed": self.missed}
        return ", ".join(f"{len(found)} {word}" for word, found in counts.items() if found or word == "right")


def judge(truth: Annotations, detections: Detections) -> Judged:
    """Match detections, best score first, to the free true box of their class they overlap most.

    A detection is right when that overlap is at least IoU 0.5, as in mAP50; a second one on the same true box
    is wrong.
    """
    overlap = iou_matrix(detections.boxes, truth.boxes)
    overlap[detections.classes[:, None] != truth.classes[None, :]] = 0.0
    matches: dict[int, int] = {}
    for index in range(len(detections)):
        if len(truth) and overlap[index].max() >= MATCH_IOU:
            matches[index] = int(overlap[index].argmax())
            overlap[:, matches[index]] = 0.0
    wrong = tuple(index for index in range(len(detections)) if index not in matches)
    missed = tuple(index for index in range(len(truth)) if index not in matches.values())
    return Judged(tuple(matches), wrong, missed)


def data_uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def overlay(
    picture: Picture,
    truth: Annotations,
    detections: Detections,
    classes: Sequence[str],
    *,
    name: str,
    draws_image: bool,
    said: str,
) -> Markup:
    """An SVG of the frame with its boxes.

    Args:
        name: id of the image inside the page. With `draws_image` this SVG holds the bytes; without, it refers
            to the SVG that does, so that both models' panels carry the picture once.
        said: the text alternative.
    """
    judged = judge(truth, detections)
    image = Markup('<image id="{}" width="{}" height="{}" href="{}"/>').format(
        name, picture.width, picture.height, data_uri(picture)
    )
    frame = _Frame(picture.width, picture.height)
    marks = [("missed", truth.boxes[i], _class(classes, truth.classes[i])) for i in judged.missed]
    for kind, indices in (("wrong", judged.wrong), ("right", judged.right)):
        for i in indices:
            score = f"{detections.scores[i]:.2f}".lstrip("0")
            marks.append((kind, detections.boxes[i], f"{_class(classes, detections.classes[i])} {score}"))
    layers = [image if draws_image else Markup('<use href="#{}"/>').format(name)]
    layers += [frame.edge(box, kind) for kind, box, _ in marks]
    layers += [
        frame.tag(box, kind, label) for kind, box, label in marks
    ]  # above every edge, to stay readable
    return Markup('<svg class="frame" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        picture.width, picture.height, said, Markup().join(layers)
    )


@dataclass(frozen=True)
class _Frame:
    """Sizes in picture pixels that look alike whatever the picture's size."""

    width: int
    height: int

    def edge(self, box: FloatArray, kind: str) -> Markup:
        x1, y1, x2, y2 = (float(value) for value in box)
        return Markup('<rect class="edge {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            kind, x1, y1, x2 - x1, y2 - y1
        )

    def tag(self, box: FloatArray, kind: str, label: str) -> Markup:
        """Above the box, or inside where the picture ends; a missed box has it at its foot, where no tag of a
        wrong detection on the same object stands.
        """
        text = self.width / 24
        x1, y1, _, y2 = (float(value) for value in box)
        width, height = (len(label) * 0.56 + 0.5) * text, text * 1.25
        x = max(0.0, min(x1, self.width - width))
        above = y1 - height if y1 >= height else min(y1, self.height - height)
        y = y2 - height if kind == "missed" else above
        return Markup(
            '<g class="tag {}"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
            '<text x="{:.1f}" y="{:.1f}" font-size="{:.1f}">{}</text></g>'
        ).format(kind, x, y, width, height, x + text * 0.25, y + text * 0.97, text, label)


def _class(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else f"class {index}"
