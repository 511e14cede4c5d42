"""What changed in one number from champion to challenger, and how surely."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, isnan
from typing import Any, Literal

Verdict = Literal["better", "worse", "inconclusive", "invalid"]
Metric = Literal["map50", "map50_95"]

MIN_GROUPS = 5
"""Fewer recordings cannot show how much recordings differ."""


@dataclass(frozen=True)
class Comparison:
    """Challenger minus champion on the same images.

    Attributes:
        low: lower end of the interval of `difference` at `level`; NaN, like `high`, when the verdict is invalid.
        reason: the verdict in words.
    """

    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    level: float
    n_images: int
    n_groups: int
    resamples: int
    resampling: str
    verdict: Verdict
    reason: str

    def to_json(self) -> dict[str, Any]:
        """NaN becomes null; `from_json` gives back equal values."""
        return _without_nan(vars(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        numbers = ("champion", "challenger", "difference", "low", "high")
        return cls(
            **{**data, **{name: float("nan") if data[name] is None else data[name] for name in numbers}}
        )


@dataclass(frozen=True)
class Change:
    """One number of both models on the same images.

    Attributes:
        metric: such as map50; of one class, its average precision.
        low, high: interval of `difference` on its own; NaN when there is none.
        family_low, family_high: interval that holds together with those of the other classes or slices.
        own_low, own_high: interval of the challenger's value.
        n_objects: crowds left out; None where it was not kept.
        problem: why there is no interval; None when there is one.
    """

    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    family_low: float
    family_high: float
    own_low: float
    own_high: float
    n_images: int
    n_objects: int | None
    n_groups: int
    problem: str | None = None

    @property
    def verdict(self) -> Verdict:
        """By the interval that holds for the whole family."""
        if self.unusable is not None:
            return "invalid"
        if self.family_low > 0:
            return "better"
        return "worse" if self.family_high < 0 else "inconclusive"

    @property
    def unusable(self) -> str | None:
        """Why nothing may be concluded; seen in the numbers too, so that none can carry a NaN through."""
        if self.problem is not None:
            return self.problem
        numbers = (self.champion, self.challenger, self.difference, self.low, self.high, self.family_low)
        if not all(map(isfinite, (*numbers, self.family_high))) or self.low > self.high:
            return f"its interval is {self.low} to {self.high}."
        if self.n_groups < MIN_GROUPS or self.n_images < 1:
            return f"it rests on {self.n_images} images of {self.n_groups} recordings."
        return None

    @classmethod
    def of(cls, compared: Comparison) -> "Change":
        """Of a comparison that stands alone; the challenger's own interval is not known of it."""
        c, nan = compared, float("nan")
        problem = c.reason if c.verdict == "invalid" else None
        found = cls(
            c.metric, c.champion, c.challenger, c.difference, c.low, c.high, c.low, c.high, nan, nan,
            c.n_images, None, c.n_groups, problem,
        )  # fmt: skip
        if found.verdict not in (c.verdict, "invalid"):
            return replace(found, problem=f"its interval {c.low} to {c.high} does not say {c.verdict}.")
        return found

    def to_json(self) -> dict[str, Any]:
        """NaN becomes null; with the verdict."""
        return {**_without_nan(vars(self)), "verdict": self.verdict}


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and isnan(value) else value for name, value in values.items()
    }
