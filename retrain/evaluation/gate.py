"""May the challenger become champion? Only on shown improvement, with nothing protected made worse."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from retrain.errors import BadInput
from retrain.evaluation.change import MIN_GROUPS, Comparison, Verdict


@dataclass(frozen=True)
class GateRules:
    """What a challenger has to show.

    Attributes:
        targets: slices on which it must be better.
        margins: protected slices, with the score each may at most lose (at the interval's lower end).
    """

    targets: tuple[str, ...]
    margins: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.targets:
            raise BadInput("A gate needs at least one target slice; without one nothing has to improve.")
        for name, margin in self.margins.items():
            if not 0 <= margin < 1:
                raise BadInput(f"The margin of slice {name!r} must be in [0, 1), got {margin}.")


@dataclass(frozen=True)
class GateDecision:
    """`passed` is true exactly when the verdict is `better`; reasons name every rule and its outcome."""

    verdict: Verdict
    passed: bool
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "passed": self.passed, "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "GateDecision":
        return cls(data["verdict"], data["passed"], tuple(data["reasons"]))


def decide(comparisons: Mapping[str, Comparison], rules: GateRules) -> GateDecision:
    """Promote only if better on every target slice and non-inferior on every protected one.

    A slice that is missing or cannot be judged stops the promotion: no data is never good news.
    """
    findings = [_target(name, comparisons.get(name)) for name in rules.targets]
    findings += [_protected(name, comparisons.get(name), margin) for name, margin in rules.margins.items()]
    found = {verdict for verdict, _ in findings}
    gravest_first: tuple[Verdict, ...] = ("invalid", "worse", "inconclusive", "better")
    overall = next(verdict for verdict in gravest_first if verdict in found)
    return GateDecision(overall, overall == "better", tuple(reason for _, reason in findings))


def _target(name: str, comparison: Comparison | None) -> tuple[Verdict, str]:
    if problem := _unusable(comparison):
        return "invalid", f"Target slice {name!r} cannot be judged: {problem}"
    assert comparison is not None
    if comparison.low > 0 and comparison.verdict == "better":
        return "better", f"Target slice {name!r}: {comparison.reason}"
    verdict: Verdict = "worse" if comparison.high < 0 else "inconclusive"
    return verdict, f"Target slice {name!r} is not shown to be better: {comparison.reason}"


def _protected(name: str, comparison: Comparison | None, margin: float) -> tuple[Verdict, str]:
    if problem := _unusable(comparison):
        return "invalid", f"Protected slice {name!r} cannot be judged: {problem}"
    assert comparison is not None
    said = (
        f"{comparison.metric} changed by {comparison.difference:+.3f}, at worst {comparison.low:+.3f}; "
        f"at most {margin:.3f} may be lost"
    )
    if comparison.low > -margin:
        return "better", f"Protected slice {name!r} keeps its level: {said}."
    verdict: Verdict = "worse" if comparison.high <= -margin else "inconclusive"
    return verdict, f"Protected slice {name!r} may have become worse: {said}."


def _unusable(comparison: Comparison | None) -> str | None:
    """Why nothing may be concluded; checked on the numbers too, so a wrong verdict cannot carry a NaN through."""
    if comparison is None:
        return "it was not compared."
    if comparison.verdict == "invalid":
        return comparison.reason
    numbers = (
        comparison.champion,
        comparison.challenger,
        comparison.difference,
        comparison.low,
        comparison.high,
    )
    if not all(isfinite(number) for number in numbers) or comparison.low > comparison.high:
        return f"its interval is {comparison.low} to {comparison.high}."
    if comparison.n_groups < MIN_GROUPS or comparison.n_images < 1:
        return f"it rests on {comparison.n_images} images of {comparison.n_groups} recordings."
    return None
