"""All that a gate decides from, gathered from two evaluations; what forbids a decision is gathered too."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from retrain.errors import BadInput
from retrain.evaluation.change import Change, Comparison
from retrain.evaluation.comparator import ModelComparator
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.paired_draws import check_pair
from retrain.evaluation.policy import GatePolicy


@dataclass(frozen=True)
class Measured:
    """A cost of the challenger, with its interval where it was measured more than once."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TrainingImages:
    """What the challenger was trained on.

    Attributes:
        ids: digests or other ids, of the same kind as those of the test images.
        near_duplicates: name of the cluster of near-duplicates that an image is in, of training and test images alike.
    """

    ids: Collection[str]
    near_duplicates: Mapping[str, str] = field(default_factory=dict)

    def overlap(self, test: Collection[str]) -> str | None:
        """Why these may not be tested on; None when they may."""
        known = set(self.ids)
        if both := known.intersection(test):
            return (
                f"{len(both)} of {len(test)} test images were trained on, first {min(both)!r}; a model is right about "
                "what it learnt by heart."
            )
        clusters = {self.near_duplicates[one] for one in known if one in self.near_duplicates}
        if near := [one for one in test if self.near_duplicates.get(one) in clusters]:
            return (
                f"{len(near)} of {len(test)} test images are near-duplicates of training images, "
                f"first {min(near)!r}."
            )
        return None


@dataclass(frozen=True)
class Evidence:
    """What is known of champion and challenger.

    Attributes:
        metrics: of all images, by metric.
        classes: by name; the metric is in each.
        slices: by name and metric.
        measured: by name of a limit, such as latency_ratio.
        problems: why nothing may be decided, such as another test set.
    """

    metrics: Mapping[str, Change] = field(default_factory=dict)
    classes: Mapping[str, Change] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, Change]] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @classmethod
    def of_slices(cls, comparisons: Mapping[str, Comparison]) -> "Evidence":
        """Of one comparison per slice, as a cycle stores them."""
        return cls(slices={name: {one.metric: Change.of(one)} for name, one in comparisons.items()})


def gather(
    champion: Evaluation,
    challenger: Evaluation,
    policy: GatePolicy,
    slices: Mapping[str, Collection[str]],
    *,
    training: TrainingImages | None,
    measured: Mapping[str, Measured] | None = None,
    seed: int = 0,
) -> Evidence:
    """What a policy asks about.

    Each slice is resampled on its own, so that what is found is that of `compare` on the slice, as in a cycle.

    Args:
        slices: image ids by name; an empty slice counts as missing.
        training: None when nothing trained on can be among the test images, such as by the split of a dataset version.

    Raises:
        NotFound: an image of a slice was not evaluated.
    """
    try:
        check_pair(champion, challenger)
    except BadInput as error:
        return Evidence(problems=(str(error),))
    overlap = None if training is None else training.overlap(champion.truth.images)
    if overlap is not None:
        return Evidence(problems=(overlap,))

    def comparator(ids: Collection[str] | None = None) -> ModelComparator:
        pair = (champion, challenger) if ids is None else (champion.only(ids), challenger.only(ids))
        return ModelComparator(*pair, seed=seed, resamples=policy.resamples, level=policy.level)

    by_slice: dict[str, Mapping[str, Change]] = {
        name: {str(metric): comparator(slices[name]).metric(metric) for metric in sorted(metrics)}
        for name, metrics in policy.slices.items()
        if slices.get(name)
    }
    if not policy.judges_all_images:
        return Evidence(slices=by_slice, measured=measured or {})
    per_class = policy.max_loss.per_class
    whole = comparator().compare(metric="map50" if per_class is None else per_class.metric)
    return Evidence(whole.metrics, whole.classes, by_slice, measured or {})
