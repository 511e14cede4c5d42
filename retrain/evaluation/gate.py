"""May the challenger become champion? Only when every rule of the policy is shown to hold.

No correction for many rules is needed: a model that breaks one passes only when that one's interval errs, whatever the
others say (Berger 1982, "Multiparameter hypothesis testing and acceptance sampling"). `worse` is said by the intervals
that hold for all classes together, because of many classes one always looks bad.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from retrain.evaluation.change import Change, Verdict
from retrain.evaluation.evidence import Evidence, Measured
from retrain.evaluation.policy import ClassMargins, GatePolicy, Minimum

_GRAVEST_FIRST: tuple[Verdict, ...] = ("invalid", "worse", "inconclusive", "better")


@dataclass(frozen=True)
class RuleFinding:
    """What became of one rule.

    Attributes:
        rule: its place in the policy.
        value: the difference, or the challenger's own value; None where there is none, like its interval.
        limit: what the interval's end was compared with.
        said: the outcome in words.
    """

    rule: str
    verdict: Verdict
    value: float | None
    low: float | None
    high: float | None
    limit: float | None
    said: str


@dataclass(frozen=True)
class GateDecision:
    """`passed` is true exactly when the verdict is `better`; reasons name every rule and its outcome."""

    verdict: Verdict
    passed: bool
    reasons: tuple[str, ...]
    rules: tuple[RuleFinding, ...] = ()

    @property
    def decided_by(self) -> RuleFinding | None:
        """The first rule with the verdict; None of a decision stored without rules."""
        return next((rule for rule in self.rules if rule.verdict == self.verdict), None)

    def to_json(self) -> dict[str, Any]:
        rules = [dict(vars(rule)) for rule in self.rules]
        return {"verdict": self.verdict, "passed": self.passed, "reasons": list(self.reasons), "rules": rules}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "GateDecision":
        rules = tuple(RuleFinding(**rule) for rule in data.get("rules", ()))
        return cls(data["verdict"], data["passed"], tuple(data["reasons"]), rules)


def decide(evidence: Evidence, policy: GatePolicy) -> GateDecision:
    """The gravest finding decides; what is missing or cannot be judged is `invalid`: no data is never good news."""
    findings = tuple(_findings(evidence, policy))
    found = {finding.verdict for finding in findings}
    # A policy has rules, but should none have been looked at, nothing was shown.
    overall: Verdict = next((verdict for verdict in _GRAVEST_FIRST if verdict in found), "invalid")
    return GateDecision(overall, overall == "better", tuple(one.said for one in findings), findings)


def _findings(evidence: Evidence, policy: GatePolicy) -> Iterator[RuleFinding]:
    if evidence.problems:
        for problem in evidence.problems:
            yield _invalid("evidence", f"Nothing can be decided: {problem}")
        return
    for rule in policy.must_improve:
        change, of = _asked(evidence, rule.slice, rule.metric)
        yield _improved(f"must_improve.{_place(rule.slice)}{rule.metric}", of, change, policy.minimum)
    loss, kept = policy.max_loss, policy.minimum
    for metric, margin in loss.overall.items():
        change, of = _asked(evidence, None, metric)
        yield _kept(f"max_loss.overall.{metric}", of, change, margin, kept)
    for name, margins in loss.per_slice.items():
        for metric, margin in margins.items():
            change, of = _asked(evidence, name, metric)
            yield _kept(f"max_loss.per_slice.{name}.{metric}", of, change, margin, kept)
    if loss.per_class is not None:
        alone = not (policy.must_improve or loss.overall or any(loss.per_slice.values()))
        yield from _classes(evidence, loss.per_class, alone=alone)
    for metric in ("precision", "recall"):
        least = getattr(policy.operating_point, f"min_{metric}")
        if least is not None:
            yield _reached(metric, evidence.metrics.get(metric), least, kept)
    for name, limit in asdict(policy.limits).items():
        if limit is not None:
            yield _cost(name, evidence.measured.get(name), limit)


def _asked(evidence: Evidence, name: str | None, metric: str) -> tuple[Change | None, str]:
    """What was compared, and what it is called."""
    if name is None:
        return evidence.metrics.get(metric), f"{metric} of all images"
    return evidence.slices.get(name, {}).get(metric), f"slice {name!r}"


def _place(name: str | None) -> str:
    return "" if name is None else f"{name}."


def _improved(rule: str, of: str, change: Change | None, minimum: Minimum) -> RuleFinding:
    if change is None or (problem := _problem(change, minimum)):
        return _unjudged(rule, f"Target {of}", None if change is None else problem)
    said = _changed(change)
    if change.low > 0:
        return _of(rule, "better", change, 0.0, f"Target {of} is better: {said}.")
    verdict: Verdict = "worse" if change.family_high < 0 else "inconclusive"
    return _of(rule, verdict, change, 0.0, f"Target {of} is not shown to be better: {said}.")


def _kept(rule: str, of: str, change: Change | None, margin: float, minimum: Minimum | None) -> RuleFinding:
    if change is None or (problem := _problem(change, minimum)):
        return _unjudged(rule, f"Protected {of}", None if change is None else problem)
    said = f"{_changed(change)}; at most {margin:.3f} may be lost"
    if change.low > -margin:
        return _of(rule, "better", change, -margin, f"Protected {of} keeps its level: {said}.")
    verdict: Verdict = "worse" if change.family_high <= -margin else "inconclusive"
    return _of(rule, verdict, change, -margin, f"Protected {of} may have become worse: {said}.")


def _classes(evidence: Evidence, rule: ClassMargins, *, alone: bool) -> Iterator[RuleFinding]:
    """`alone` says that no other rule looks at how good the challenger is."""
    judged = False
    for name in sorted({*evidence.classes, *rule.exceptions}):
        change, place = evidence.classes.get(name), f"max_loss.per_class.{name}"
        if change is not None and change.metric != rule.metric:
            change = None
        # A class is rarely in many images; that there are enough recordings of it is part of the comparison.
        if change is not None and (change.n_objects or 0) < rule.min_objects:
            said = f"Class {name!r} is not judged: {change.n_objects} objects, from {rule.min_objects} on it would be."
            yield RuleFinding(place, "better", None, None, None, None, said)
        else:
            judged = True
            margin = rule.exceptions.get(name, rule.margin)
            yield _kept(place, f"class {name!r}", change, margin, None)
    if evidence.classes and alone and not judged:
        # Else even a model that finds nothing would pass.
        yield _invalid(
            "max_loss.per_class", f"Protected classes cannot be judged: none has {rule.min_objects} objects."
        )
    if not evidence.classes:
        yield _invalid("max_loss.per_class", "Protected class cannot be judged: none was compared.")


def _reached(metric: str, change: Change | None, least: float, minimum: Minimum) -> RuleFinding:
    rule, of = f"operating_point.min_{metric}", f"{metric.capitalize()} of the challenger"
    if change is None or (problem := _problem(change, minimum)):
        return _unjudged(rule, of, None if change is None else problem)
    value, low, high = change.challenger, change.own_low, change.own_high
    if not (isfinite(low) and isfinite(high)):
        return _unjudged(rule, of, f"its interval is {low} to {high}.")
    said = f"{value:.3f}, interval {low:.3f} to {high:.3f}; at least {least:.3f} is asked"
    if low >= least:
        return RuleFinding(rule, "better", value, low, high, least, f"{of} is high enough: {said}.")
    verdict: Verdict = "worse" if high < least else "inconclusive"
    return RuleFinding(rule, verdict, value, low, high, least, f"{of} is not shown to be enough: {said}.")


def _cost(name: str, measured: Measured | None, limit: float) -> RuleFinding:
    rule, of = f"limits.{name}", f"{name} of the challenger"
    if measured is None:
        return _invalid(rule, f"{of} cannot be judged: it was not measured.", limit)
    low, high = (measured.value if end is None else end for end in (measured.low, measured.high))
    if not all(map(isfinite, (measured.value, low, high))) or not 0 < low <= high:
        return _invalid(rule, f"{of} cannot be judged: {measured.value}, interval {low} to {high}.", limit)
    said = f"{of} is {measured.value:.3f}, interval {low:.3f} to {high:.3f}; at most {limit:.3f} is allowed."
    verdict: Verdict = "better" if high <= limit else "worse" if low > limit else "inconclusive"
    return RuleFinding(rule, verdict, measured.value, low, high, limit, said)


def _problem(change: Change, minimum: Minimum | None) -> str | None:
    if change.unusable is not None or minimum is None:
        return change.unusable
    for what, found, least in (
        ("images", change.n_images, minimum.images),
        ("recordings", change.n_groups, minimum.groups),
        ("objects", change.n_objects, minimum.objects),
    ):
        if least and (found is None or found < least):
            number = "an unknown number of" if found is None else found
            return f"it rests on {number} {what}; at least {least} are asked."
    return None


def _changed(change: Change) -> str:
    return f"{change.metric} changed by {change.difference:+.3f}, interval {change.low:+.3f} to {change.high:+.3f}"


def _of(rule: str, verdict: Verdict, change: Change, limit: float, said: str) -> RuleFinding:
    return RuleFinding(rule, verdict, change.difference, change.low, change.high, limit, said)


def _unjudged(rule: str, of: str, problem: str | None) -> RuleFinding:
    return _invalid(rule, f"{of} cannot be judged: {problem or 'it was not compared.'}")


def _invalid(rule: str, said: str, limit: float | None = None) -> RuleFinding:
    return RuleFinding(rule, "invalid", None, None, None, limit, said)
