"""The names of the collection strategies: apart, so that the configuration knows them without loading the rules."""

from typing import Literal

CollectionStrategy = Literal[
    "uncertainty",
    "random",
    "boundary",
    "all",
    "band",
    "per_class",
    "rare_class",
    "no_detections",
    "flip_disagreement",
    "shadow_disagreement",
    "track_gap",
    "combined",
]
