"""Images that are to be added, decoded once before anything is locked."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from retrain.duplicates.perceptual_hash import PerceptualHash, perceptual_hash
from retrain.errors import BadInput, NotFound
from retrain.images import read_image
from retrain.storage.packs import read_pack

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is to do."""


@dataclass(frozen=True)
class PackedImage:
    """An image in a pack that somebody else wrote, such as collection: the pack is taken as it is where all of it is.

    Attributes:
        pack: the file, named by its digest.
        name: of the image inside.
    """

    pack: Path
    name: str


Source = str | Path | bytes | PackedImage

_READERS = min(8, os.cpu_count() or 1)
_AHEAD = 256
"""Images decoded before the first of them is asked for; bounds memory."""


@dataclass(frozen=True)
class Candidate:
    """A whole image and where its bytes are.

    Attributes:
        picture: None for levels of more than 8 bits, which are not compared.
    """

    source: Path | bytes | PackedImage
    digest: str
    format: str
    width: int
    height: int
    picture: PerceptualHash | None

    @property
    def file_name(self) -> str:
        return f"{self.digest}.{self.format}"


def read_candidates(
    sources: Sequence[Source], progress: Progress | None = None
) -> Iterator[Candidate | BadInput]:
    """One for each source, in order: the image, or why it is none."""
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(sources), _AHEAD):
            part = sources[start : start + _AHEAD]
            yield from readers.map(_candidate, part)
            if progress is not None:
                progress("reading images", start + len(part), len(sources))


def _candidate(source: Source) -> Candidate | BadInput:
    try:
        given = source if not isinstance(source, PackedImage) else next(read_pack(source.pack, [source.name]))
        image = read_image(given)
    except (BadInput, NotFound) as problem:
        return BadInput(str(problem))
    picture = None if image.thumbnail is None else perceptual_hash(image.thumbnail)
    kept = Path(source) if isinstance(source, str) else source
    return Candidate(kept, image.digest, image.format, image.width, image.height, picture)
