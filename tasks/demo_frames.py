"""Pictures for the demo's report: what drift does to each camera, and what both models see on held-out frames."""

from collections.abc import Sequence

from retrain.monitoring import report as page
from retrain.simulation.traffic import FLEET, Frame
from tasks.resources import PRODUCTION_START, Resources
from tasks.simulation import heldout_frames

DRAWN = 0.25
"""Score from which a box is drawn."""
DRIFT_WORDS = {"moderate": "low light, blur, part-inverted ink", "blinding": "inverted and very dark"}
_PAIRS = 4


def frame_pairs(resources: Resources, before_digest: str, after_digest: str | None) -> list[page.FramePair]:
    """Held-out drifted frames as both models see them, one camera after the other."""
    if after_digest is None:
        return []
    from retrain.detector import Detector

    frames = heldout_frames(resources)["drifted"][:_PAIRS]
    images = [frame.image for frame in frames]
    before, after = (
        Detector.load(resources.releases.fetch(digest)).predict(images, confidence=DRAWN)
        for digest in (before_digest, after_digest)
    )
    return [
        page.FramePair(
            frame.camera,
            f"held-out frame of {frame.camera}",
            page.Picture.of(frame.image),
            frame.annotations,
            first,
            second,
        )
        for frame, first, second in zip(frames, before, after, strict=True)
    ]


def camera_looks(resources: Resources) -> list[page.CameraLook]:
    """What each camera sends before and after its drift."""
    drift_from = PRODUCTION_START + resources.config.simulation.drift_from

    def pictures(camera: str, indices: Sequence[int]) -> tuple[page.Picture, ...]:
        frames: list[Frame] = [resources.traffic.frame(camera, index) for index in indices]
        return tuple(page.Picture.of(frame.image) for frame in frames)

    return [
        page.CameraLook(
            camera.id,
            DRIFT_WORDS.get(camera.drift.kind),
            pictures(camera.id, (0, 11)),
            pictures(camera.id, (drift_from, drift_from + 11)) if camera.drift.kind != "none" else (),
        )
        for camera in FLEET
    ]
