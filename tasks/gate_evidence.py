"""What the gate of a cycle decides from: gathered for the policy that the user wrote, or as the cycle compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from retrain.evaluation.evidence import Evidence, TrainingImages, gather
from retrain.evaluation.policy import GatePolicy
from tasks.evaluation_data import (
    camera_slices,
    learnt_images,
    recorded_comparisons,
    recorded_costs,
    saved_evaluation,
    test_slices,
)
from tasks.resources import Resources


@dataclass(frozen=True)
class EvaluatedCycle:
    """A cycle whose evaluate stage is recorded.

    Attributes:
        version: name of the dataset version that it made.
        known_version: the one that the champion learnt from.
        evaluated: what its evaluate stage recorded.
    """

    resources: Resources
    cycle_id: str
    version: str
    known_version: str
    evaluated: Mapping[str, Any]

    @cached_property
    def learnt(self) -> TrainingImages:
        """What no test image may be among."""
        return TrainingImages(learnt_images(self.resources, self.version, self.known_version))

    def gathered(self, policy: GatePolicy) -> Evidence:
        """All that a policy asks about, from the stored evaluations; slices are also called `camera: <name>`."""
        champion, challenger = (
            saved_evaluation(self.resources, self.cycle_id, who) for who in ("champion", "challenger")
        )
        slices = test_slices(self.resources, self.version, self.known_version)
        slices |= camera_slices(self.resources, self.version)
        costs = recorded_costs(self.evaluated)
        measured = {} if costs is None else costs.measured(policy.level)
        return gather(champion, challenger, policy, slices, training=self.learnt, measured=measured)

    def compared(self) -> Evidence:
        """The comparisons that the evaluate stage recorded, for the rules of a cycle without a policy."""
        judged = saved_evaluation(self.resources, self.cycle_id, "challenger").truth.images
        if (overlap := self.learnt.overlap(judged)) is not None:
            return Evidence(problems=(overlap,))
        return Evidence.of_slices(recorded_comparisons(self.evaluated))
