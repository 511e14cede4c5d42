"""Small line charts as inline SVG, coloured by the page's style sheet so that they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from retrain.monitoring.report import CameraSeries, Incident, TrainingCurve

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 14, 10, 30
RULE_ROWS, ROW = 3, 11
LABEL_GAP = 12


@dataclass(frozen=True)
class Line:
    """Points joined in order; a y of None leaves a gap. `style` is a CSS class, `label` stands at its end."""

    points: tuple[tuple[float, float | None], ...]
    style: str
    label: str = ""


@dataclass(frozen=True)
class Rule:
    """A labelled vertical line at `x`."""

    x: float
    label: str
    style: str


@dataclass(frozen=True)
class _Scale:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    right: float
    top: float

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return LEFT + (value - self.x_low) / span * (WIDTH - LEFT - self.right)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1.0
        return HEIGHT - BOTTOM - (value - self.y_low) / span * (HEIGHT - self.top - BOTTOM)


def incident_chart(incident: Incident, series: CameraSeries) -> Markup:
    """One camera's live signal; the line changes its style where the new model took over."""
    switch = math.inf if incident.switched_at is None else incident.switched_at
    old = tuple((x, y) for x, y in series.points if x < switch)
    new = tuple((x, y) for x, y in series.points if x >= switch)
    rules = [
        Rule(at, label, style)
        for at, label, style in (
            (series.drift_from, "drift", "bad"),
            (incident.crossed_at, "threshold", "plain"),
            (incident.switched_at, "new model", "good"),
        )
        if at is not None
    ]
    said = f"{incident.metric} of camera {series.camera} over {incident.x_title}"
    return line_chart(
        [Line(old, "before"), Line(new, "after")], said, incident.x_title, y_range=(0.0, 1.0), rules=rules
    )


def score_chart(curve: TrainingCurve) -> Markup:
    """mAP50 on the validation set by epoch."""
    points = tuple((float(point.epoch), point.map50) for point in curve.epochs)
    return line_chart(
        [Line(points, f"{curve.which} dots")], f"{curve.title}: mAP50 by epoch", "epoch", y_range=(0.0, 1.0)
    )


def loss_chart(curve: TrainingCurve) -> Markup:
    """Every loss that any epoch reports, by epoch."""
    names = list(dict.fromkeys(name for point in curve.epochs for name in point.losses))
    lines = [
        Line(
            tuple((float(point.epoch), point.losses.get(name)) for point in curve.epochs),
            f"loss{index % 3}",
            name,
        )
        for index, name in enumerate(names)
    ]
    return line_chart(lines, f"{curve.title}: losses by epoch", "epoch", y_range=None)


def line_chart(
    lines: Sequence[Line],
    said: str,
    x_title: str,
    *,
    y_range: tuple[float, float] | None,
    rules: Sequence[Rule] = (),
) -> Markup:
    """Axes, rules and lines; says "not measured" when no line has a point.

    Args:
        said: the text alternative.
        y_range: None spans 0 to the largest value.
    """
    measured = [(x, y) for line in lines for x, y in line.points if y is not None and math.isfinite(y)]
    if not measured:
        return Markup('<p class="none">not measured</p>')
    xs = [x for line in lines for x, _ in line.points]
    high = max(y for _, y in measured)
    low, top = y_range or (0.0, _steps(0.0, high, 4)[-1])
    right = RIGHT + 22 if any(line.label for line in lines) else RIGHT
    scale = _Scale(min(xs), max(xs), low, max(top, high), right, TOP + RULE_ROWS * ROW if rules else TOP)
    parts = [_y_axis(scale), _x_axis(scale, x_title), *_rules(rules, scale)]
    parts += [_path(line, scale) for line in lines]
    parts.append(_end_labels(lines, scale))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, said, Markup().join(parts)
    )


def _steps(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`, in about `wanted` steps."""
    rough = max(high - low, 1e-9) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _y_axis(scale: _Scale) -> Markup:
    parts = []
    for value in _steps(scale.y_low, scale.y_high, 4):
        if value > scale.y_high * 1.001:
            continue
        y = scale.y(value)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>').format(
                LEFT, WIDTH - scale.right, y=y
            )
            + Markup('<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{:g}</text>').format(
                LEFT - 6, y + 4, value
            )
        )
    return Markup().join(parts)


def _x_axis(scale: _Scale, title: str) -> Markup:
    ticks = [
        x for x in _steps(scale.x_low, scale.x_high, 5) if scale.x_low <= x <= scale.x_high and x == round(x)
    ]
    base = HEIGHT - BOTTOM
    parts = [
        Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{:g}</text>').format(
            scale.x(x), base + 14, x
        )
        for x in ticks
    ]
    middle = (LEFT + WIDTH - scale.right) / 2
    parts.append(
        Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
            middle, HEIGHT - 3, title
        )
    )
    return Markup().join(parts)


def _rules(rules: Sequence[Rule], scale: _Scale) -> list[Markup]:
    """Labels step down a row where they would run into the one before."""
    drawn, taken = [], [-math.inf] * RULE_ROWS
    for rule in sorted(rules, key=lambda rule: rule.x):
        if not scale.x_low <= rule.x <= scale.x_high:
            continue
        x, width = scale.x(rule.x), len(rule.label) * 5.8
        start = min(max(x - width / 2, 0.0), WIDTH - width)
        row = next((row for row, end in enumerate(taken) if start > end + 4), 0)
        taken[row] = start + width
        drawn.append(
            Markup(
                '<line class="rule {}" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/>'
                '<text class="mark {}" x="{:.1f}" y="{}">{}</text>'
            ).format(
                rule.style,
                ROW * (row + 1),
                HEIGHT - BOTTOM,
                rule.style,
                start,
                ROW * row + 9,
                rule.label,
                x=x,
            )
        )
    return drawn


def _path(line: Line, scale: _Scale) -> Markup:
    steps: list[str] = []
    dots: list[Markup] = []
    pen_down = False
    for x, y in line.points:
        if y is None or not math.isfinite(y):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{scale.x(x):.1f} {scale.y(y):.1f}")
        pen_down = True
        dots.append(
            Markup(
                '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2.4"><title>{:g}: {:.3f}</title></circle>'
            ).format(scale.x(x), scale.y(y), x, y)
        )
    if not steps:
        return Markup()
    return Markup('<g class="line {}"><path d="{}"/>{}</g>').format(
        line.style, " ".join(steps), Markup().join(dots)
    )


def _end_labels(lines: Sequence[Line], scale: _Scale) -> Markup:
    """Each line's name beside its last point, pushed apart where lines end together."""
    ends = [
        (scale.y(last), line)
        for line in lines
        if line.label
        and (last := next((y for _, y in reversed(line.points) if y is not None), None)) is not None
    ]
    placed, previous = [], -math.inf
    for y, line in sorted(ends, key=lambda end: end[0]):
        previous = max(y, previous + LABEL_GAP)
        placed.append(
            Markup('<text class="end {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                line.style, WIDTH - scale.right + 5, previous + 4, line.label
            )
        )
    return Markup().join(placed)
