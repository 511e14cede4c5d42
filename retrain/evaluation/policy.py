"""What a challenger has to show, as data: read from YAML, checked strictly, never half understood."""

import difflib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from retrain.errors import ConfigError, NotFound
from retrain.evaluation.change import MIN_GROUPS, Metric

AnyMetric = Literal["map50", "map50_95", "precision", "recall", "f1"]
Margin = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""Score that may at most be lost, as a fraction."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class MustImprove:
    """A score that has to be better; of all images, or of a slice, where only average precision is judged."""

    metric: AnyMetric = "map50"
    slice: str | None = None

    def __post_init__(self) -> None:
        if self.slice is not None and self.metric not in ("map50", "map50_95"):
            raise ValueError(f"of a slice only map50 and map50_95 are compared, got {self.metric}")


@dataclass(frozen=True, config=_STRICT)
class ClassMargins:
    """What each class may lose.

    Attributes:
        exceptions: margins of classes, by name, for which another one holds.
        min_objects: classes with fewer objects are not judged; 0 judges all, and one without objects is invalid.
    """

    margin: Margin
    metric: Metric = "map50"
    exceptions: Mapping[str, Margin] = field(default_factory=dict)
    min_objects: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=_STRICT)
class MaxLoss:
    """Non-inferiority: what may be lost at most, by metric, for all images, each class and slices by name."""

    overall: Mapping[AnyMetric, Margin] = field(default_factory=dict)
    per_class: ClassMargins | None = None
    per_slice: Mapping[str, Mapping[Metric, Margin]] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class OperatingPoint:
    """What the challenger must reach at its served confidence and IoU 0.5."""

    min_precision: Fraction | None = None
    min_recall: Fraction | None = None


@dataclass(frozen=True, config=_STRICT)
class Limits:
    """What the challenger may cost; ratios are challenger over champion, `size_mb` millions of bytes."""

    latency_ratio: Positive | None = None
    size_ratio: Positive | None = None
    size_mb: Positive | None = None


@dataclass(frozen=True, config=_STRICT)
class Minimum:
    """What each set of images that is judged, all or a slice, must hold; `groups` are recordings."""

    images: Annotated[int, Field(ge=1)] = 1
    objects: Annotated[int, Field(ge=0)] = 0
    groups: Annotated[int, Field(ge=MIN_GROUPS)] = MIN_GROUPS


@dataclass(frozen=True, config=_STRICT)
class GatePolicy:
    """All rules; every one must hold.

    Attributes:
        level: of the intervals.
    """

    must_improve: tuple[MustImprove, ...] = ()
    max_loss: MaxLoss = field(default_factory=MaxLoss)
    operating_point: OperatingPoint = field(default_factory=OperatingPoint)
    limits: Limits = field(default_factory=Limits)
    minimum: Minimum = field(default_factory=Minimum)
    level: Annotated[float, Field(gt=0.5, lt=1, allow_inf_nan=False)] = 0.95
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 1000

    def __post_init__(self) -> None:
        loss = self.max_loss
        if not (self.must_improve or loss.overall or loss.per_class or any(loss.per_slice.values())):
            raise ValueError(
                "a policy needs a rule in must_improve or max_loss; without one any model would pass"
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = "the policy") -> "GatePolicy":
        """From nested mappings with the names of the attributes.

        Raises:
            ConfigError: all that is unknown, missing or out of range.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{where} must be a mapping such as `must_improve: [{{metric: map50}}]`.")
        try:
            return _READER.validate_python(dict(settings))
        except ValidationError as error:
            found = "; ".join(_said(one["type"], one["loc"], one) for one in error.errors())
            raise ConfigError(f"{where}: {found}.") from error

    @classmethod
    def read(cls, path: Path) -> "GatePolicy":
        """From a YAML file.

        Raises:
            NotFound: no such file.
            ConfigError: it cannot be read, is not YAML, or as `of` says.
        """
        try:
            settings = yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)  # noqa: S506 - a safe loader
        except FileNotFoundError as error:
            raise NotFound(f"No policy at {path}.") from error
        except OSError as error:
            raise ConfigError(f"The policy {path} cannot be read: {error.strerror}.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        return cls.of(settings, str(path))

    def to_json(self) -> dict[str, Any]:
        """All settings, defaults too; `of` gives back an equal policy."""
        settings: dict[str, Any] = _READER.dump_python(self, mode="json")
        return settings

    @property
    def asked_limits(self) -> tuple[str, ...]:
        """Names of what has to be measured to judge by this policy."""
        return tuple(name for name, limit in vars(self.limits).items() if limit is not None)

    @property
    def slices(self) -> dict[str, set[Metric]]:
        """Metrics that are judged of each slice."""
        wanted: dict[str, set[Metric]] = {name: set(of) for name, of in self.max_loss.per_slice.items()}
        for rule in self.must_improve:
            if rule.slice is not None and rule.metric in ("map50", "map50_95"):
                wanted.setdefault(rule.slice, set()).add(rule.metric)  # type: ignore[arg-type]
        return wanted

    @property
    def judges_all_images(self) -> bool:
        """Whether any rule looks at more than slices and costs."""
        whole = any(rule.slice is None for rule in self.must_improve)
        point = self.operating_point
        shown = point.min_precision is not None or point.min_recall is not None
        return whole or shown or bool(self.max_loss.overall) or self.max_loss.per_class is not None


class _EachKeyOnce(yaml.SafeLoader):
    """Of a key written twice YAML keeps the last, so that the rules of the first would be lost unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


_READER = TypeAdapter(GatePolicy)
_METRICS = {"map50", "map50_95", "precision", "recall", "f1"}
_KEYS = {
    key
    for part in (MustImprove, ClassMargins, MaxLoss, OperatingPoint, Limits, Minimum, GatePolicy)
    for key in part.__dataclass_fields__
} | _METRICS


def _said(kind: str, place: tuple[str | int, ...], error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in place if part != "[key]")
    if kind in ("unexpected_keyword_argument", "literal_error"):
        wrong = str(error["input"] if kind == "literal_error" else place[-1])
        if kind == "literal_error":
            # What is right elsewhere may be wrong here.
            hint = _hint(wrong, _METRICS - {wrong})
            return f"{where}: unknown {wrong!r}{hint}; here it is {error['ctx']['expected']}"
        return f"unknown key {where!r}{_hint(wrong, _KEYS)}"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if kind in ("missing", "value_error") else f", got {error['input']!r}"
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


def _hint(wrong: str, known: set[str]) -> str:
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
