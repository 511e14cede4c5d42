"""The rules that a cycle's gate decides by: those in the file that the user names, or two of our own."""

from retrain.config import RetrainConfig
from retrain.errors import ConfigError
from retrain.evaluation.policy import GatePolicy

FROZEN, NEW = "frozen test", "new frames"
"""Slices: the test split as the champion knew it, and what is new to it."""
CAMERA = "camera: "
"""What the slice of a camera is called, before the camera's name."""


def own_policy(config: RetrainConfig) -> GatePolicy | None:
    """What the user wrote in the file `evaluation.policy`, as it is now; None without one.

    Raises:
        NotFound: there is no such file.
        ConfigError: it cannot be used, or has a rule for a slice or class that no cycle of this model has.
    """
    path = config.evaluation.policy
    if path is None:
        return None
    policy = GatePolicy.read(path)
    slices = [name for name in policy.slices if name not in (FROZEN, NEW) and not name.startswith(CAMERA)]
    if slices:
        raise ConfigError(
            f"{path}: a cycle has no slice {', '.join(map(repr, sorted(slices)))}; it has {FROZEN!r}, {NEW!r} and, of "
            f"each camera, {f'{CAMERA}NAME'!r}."
        )
    by_class = policy.max_loss.per_class
    if by_class is not None and (classes := by_class.exceptions.keys() - set(config.model.classes)):
        raise ConfigError(
            f"{path}: max_loss.per_class.exceptions names {', '.join(map(repr, sorted(classes)))}; model.classes has "
            f"{', '.join(config.model.classes)}."
        )
    return policy


def gate_policy(margin: float) -> GatePolicy:
    """Better on what is new, and at most `margin` worse on what the champion already knew."""
    return GatePolicy.of(
        {
            "must_improve": [{"metric": "map50", "slice": NEW}],
            "max_loss": {"per_slice": {FROZEN: {"map50": margin}}},
        }
    )
