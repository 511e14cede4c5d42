"""Frames in which an object that was followed for some frames is suddenly not seen."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from retrain.data_collection.checks import check_count, check_fraction
from retrain.data_collection.frame import SCORE_FLOOR, Frame, Seen, Wish
from retrain.data_collection.locks import ForkSafeLock
from retrain.data_collection.strategies.matching import matched
from retrain.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_TRACKS = 100
"""Per camera; when a frame shows more, those followed already stay."""
MEMORY = 5
"""Frames for which a missing object is waited for; when it comes back, its track goes on."""
NO_SIZE = Wish(0.0, "no image size given")
LATE = Wish(0.0, "older than the camera's last frame")


class _Track(NamedTuple):
    box: Sequence[float]
    label: int
    step: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    """How far each edge moved per frame between the last two sightings, in pixels."""
    frames: int = 1
    missing: int = 0
    """Frames since the last sighting."""

    def seen_at(self, box: Sequence[float]) -> "_Track":
        step = [(new - old) / (self.missing + 1) for new, old in zip(box, self.box, strict=True)]
        return _Track(box, self.label, step, self.frames + 1)


class _Past(NamedTuple):
    captured_at: float
    tracks: Sequence[_Track]


class TrackGap:
    """Wants the first frame in which a followed object has no successor although it was not about to leave.

    Objects are followed by IoU with their last box (Bochinski et al. 2017); the defaults for the length of a
    track and for the IoU are those of SORT (Bewley et al. 2016). Decided with the past only, so an object that
    really disappeared inside the picture, behind a door say, is wanted like one the model lost for a moment.

    Every frame of a camera must be shown in the order of its time, by one process. Safe for threads.
    """

    def __init__(
        self,
        *,
        track_frames: int = 3,
        track_iou: float = 0.3,
        track_border: float = 0.02,
        track_pause_s: float = 5.0,
        max_cameras: int = 256,
        score_floor: float = SCORE_FLOOR,
    ) -> None:
        """Follow nothing yet.

        Args:
            track_frames: sightings before the loss of an object counts.
            track_border: objects whose next place comes nearer than this to an edge of the picture may leave;
                as part of the picture's width or height.
            track_pause_s: after a longer pause of the camera its objects are forgotten.
            max_cameras: the camera not heard of for longest is forgotten when there are more.
            score_floor: fainter boxes start no track, but continue one.

        Raises:
            ConfigError: a setting out of range.
        """
        check_count("track_frames", track_frames)
        check_count("max_cameras", max_cameras)
        check_fraction("track_iou", track_iou, zero=False)
        check_fraction("track_border", track_border)
        check_fraction("score_floor", score_floor)
        if not track_pause_s > 0:
            raise ConfigError(f"track_pause_s must be more than 0 seconds, got {track_pause_s!r}.")
        self._min_frames, self._iou, self._border = track_frames, track_iou, track_border
        self._pause_s, self._max_cameras, self._floor = track_pause_s, max_cameras, score_floor
        self._gap = Wish(1.0, f"an object seen for {track_frames} or more frames is missing")
        self._whole = Wish(0.0, "no object is missing")
        self._cameras: dict[str, _Past] = {}
        self._has_forgotten = False
        self._lock = ForkSafeLock()

    def __call__(self, frame: Frame) -> Wish:
        if frame.width <= 0 or frame.height <= 0:
            return NO_SIZE
        with self._lock:
            return self._judge(frame)

    def _judge(self, frame: Frame) -> Wish:
        past = self._cameras.get(frame.camera, _Past(frame.captured_at, ()))
        since_s = frame.captured_at - past.captured_at
        # Far older than the last one is a clock that was set back, not a late frame.
        if -self._pause_s <= since_s < 0:
            return LATE
        followed = past.tracks if 0 <= since_s <= self._pause_s else ()
        tracks, is_gap = self._follow(followed, frame)
        self._remember(frame.camera, _Past(frame.captured_at, tracks))
        return self._gap if is_gap else self._whole

    def _follow(self, tracks: Sequence[_Track], frame: Frame) -> tuple[list[_Track], bool]:
        """The tracks after this frame, and whether one of them should have been seen in it."""
        known = Seen(
            [track.box for track in tracks],
            [track.label for track in tracks],
            # One waited for must not take the box of one that was there a moment ago.
            [1.0 if track.missing == 0 else -1.0 for track in tracks],
        )
        partners = matched(known, frame.prediction, self._iou, self._floor)
        seen = [track.seen_at(frame.boxes[partners[i]]) for i, track in enumerate(tracks) if i in partners]
        unseen = [
            track
            for i, track in enumerate(tracks)
            if i not in partners and track.frames >= self._min_frames and track.missing < MEMORY
        ]
        waiting = [track._replace(missing=track.missing + 1) for track in unseen]
        is_gap = any(track.missing == 0 and not self._may_leave(track, frame) for track in unseen)
        after = [*seen, *waiting, *self._started(frame, set(partners.values()))]
        return after[:MAX_TRACKS], is_gap

    def _started(self, frame: Frame, continued: set[int]) -> list[_Track]:
        return [
            _Track(frame.boxes[j], frame.classes[j])
            for j, score in enumerate(frame.scores)
            if j not in continued and score >= self._floor
        ]

    def _may_leave(self, track: _Track, frame: Frame) -> bool:
        x1, y1, x2, y2 = (edge + step for edge, step in zip(track.box, track.step, strict=True))
        across, down = self._border * frame.width, self._border * frame.height
        return x1 <= across or y1 <= down or x2 >= frame.width - across or y2 >= frame.height - down

    def _remember(self, camera: str, past: _Past) -> None:
        # A dict keeps its order of insertion: the first camera is the one not heard of for longest.
        self._cameras.pop(camera, None)
        self._cameras[camera] = past
        if len(self._cameras) <= self._max_cameras:
            return
        del self._cameras[next(iter(self._cameras))]
        if not self._has_forgotten:
            self._has_forgotten = True
            logger.warning(
                "More than %d cameras: tracks of the one not heard of for longest are forgotten, and its gaps "
                "may be missed; said once. Raise max_cameras.",
                self._max_cameras,
            )
