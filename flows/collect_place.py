"""Where `retrain collect` puts samples: the configured store, or a folder of its own."""

from pathlib import Path
from typing import Any

from retrain.errors import NotFound
from tasks.resources import Resources


def collection_place(
    resources: Resources, storage: Path | None, changes: dict[str, Any] | None = None
) -> Resources:
    """The adapters of a storage folder, laid out as `DataCollectionService` does it; without one, the configured ones.

    Args:
        changes: of the section `data_collection`.
    """
    folder = None if storage is None else storage.absolute()
    # A folder of its own is complete in itself: nothing of it goes to S3, or through Redis to another host.
    own = {} if folder is None else {"storage_path": folder / "blobs", "s3_bucket": None, "redis_url": None}
    section = resources.config.data_collection.model_copy(update={**own, **(changes or {})})
    config = resources.config.model_copy(update={"data_collection": section})
    if folder is None:
        return Resources(config, resources.home)
    where = config.storage.model_copy(update={"state_url": f"sqlite:///{folder / 'index.sqlite'}"})
    return Resources(config.model_copy(update={"storage": where}), folder)


def existing_place(resources: Resources, storage: Path | None) -> Resources:
    """`collection_place` of a folder that somebody has collected into.

    Raises:
        NotFound: nobody has.
    """
    if storage is not None and not (storage / "spool").is_dir():
        raise NotFound(f"Nothing was collected in {storage}: it has no folder spool. Check --storage.")
    return collection_place(resources, storage)
