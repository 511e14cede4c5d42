"""`retrain collect forget` and `retrain collect retain`: deletes collected samples and says what stays elsewhere."""

import time
from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import ForgetReport, Scope, affected, find_samples
from retrain.data_collection.forgetting.forget import forget as forget_samples
from retrain.data_collection.forgetting.retention import RetentionPolicy, RetentionReport, retain
from retrain.data_collection.forgetting.tombstones import forgotten_samples
from retrain.data_collection.forgetting.unseen import check_seen
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.statistics.counter_files import read_published
from retrain.errors import NotFound
from retrain.storage.leases import Lease
from tasks.resources import Resources
from tasks.retention import DELETION, LEASE_S

_SHOWN = 5


def forget(
    resources: Resources,
    console: Console,
    now: float,
    samples: Sequence[str] = (),
    cameras: Sequence[str] = (),
    models: Sequence[str] = (),
    *,
    reason: str = "",
    dry_run: bool = False,
    unseen: bool = False,
) -> None:
    """Forget samples for good, and print which cycles and dataset versions know them and what stays where.

    Args:
        samples: digests of images.
        cameras, models: names; everything they collected until now. Its pictures go from every model.
        dry_run: only print what would go.
        unseen: also what nothing was ever collected of; otherwise that is taken for a slip of the pen.

    Raises:
        BadInput: nothing is named, or something that is no sample id.
        NotFound: nothing was ever collected of something named; nothing was forgotten.
        Conflict: a running cycle uses some, or somebody else deletes samples now; nothing was forgotten.
    """
    scope = Scope(tuple(samples), tuple(cameras), tuple(models))
    if not unseen:
        _check_seen(resources, console, scope, dry_run=dry_run)
    found = find_samples(resources.state, scope)
    _say(console, f"{len(found)} stored samples {'would be' if dry_run else 'are'} forgotten")
    # Said first: should this be killed half-way, nobody could say it afterwards.
    cycles, versions = _show_affected(resources, console, sorted({*found, *samples}))
    if dry_run:
        return
    with (
        resources.leases.acquire(DELETION, LEASE_S) as lease,
        resources.collection_service(background=False) as service,
    ):
        eraser = _eraser(resources, lease)
        report = forget_samples(eraser, scope, now=now, reason=reason, drainer=service.drainer)
    _say(
        console,
        f"{len(report.samples)} samples forgotten, {report.refused} records in the spool refused; "
        f"{report.erased.packs} packs replaced or deleted, {report.erased.bytes} bytes freed",
    )
    _show_drafts(resources, console)
    _delete_pages(resources, console, cycles, {*found, *samples, *report.samples})
    if inherited := {image for images in versions.values() for image in images}:
        resources.datasets.forget(inherited, reason or "retrain collect forget")
    _show_left(resources, console, scope, report)


def apply_retention(
    resources: Resources, console: Console, policy: RetentionPolicy, now: float
) -> RetentionReport:
    """Delete the samples that the policy no longer keeps, and print what went.

    Raises:
        Active: somebody else deletes samples now.
    """
    with (
        resources.leases.acquire(DELETION, LEASE_S) as lease,
        resources.collection_service(background=False) as service,
    ):
        report = retain(_eraser(resources, lease), policy, now, drainer=service.drainer)
    _say(
        console,
        f"{len(report.samples)} samples deleted, {report.packs} packs replaced or deleted, "
        f"{report.bytes_freed} bytes freed: {report.bytes_before} before, {report.bytes_after} now",
    )
    if report.over:
        _warn(console, f"{report.over} bytes too many are left: a running cycle uses them")
    if report.samples and report.left:
        _warn(console, report.left)
    return report


def _eraser(resources: Resources, lease: Lease) -> Eraser:
    return Eraser(resources.state, resources.sample_blobs, resources.home / "cache", lease.check)


def _check_seen(resources: Resources, console: Console, scope: Scope, *, dry_run: bool) -> None:
    published = read_published(resources.spool, time.time()).counts
    counted = published.outcomes.keys() if published else ()
    try:
        check_seen(resources.state, scope, counted)
    except NotFound as error:
        # It may be what waits in the spool.
        waiting = spool_depth(resources.spool).records
        if waiting and dry_run:
            _warn(console, f"{error} {waiting} frames wait in the spool and were not looked at.")
            return
        if waiting:
            with resources.collection_service(background=False) as service:
                service.drainer.drain(wait=True)
        try:
            check_seen(resources.state, scope, counted)
        except NotFound as still:
            elsewhere = (
                "" if resources.config.data_collection.redis_url is None else ", or only waits in Redis"
            )
            raise NotFound(
                f"{still} Nothing was forgotten. With --unseen, also what never came{elsewhere} is forgotten."
            ) from error


def _show_affected(
    resources: Resources, console: Console, samples: Sequence[str]
) -> tuple[Collection[str], Mapping[str, Collection[str]]]:
    """Say which cycles and dataset versions know them; gives both."""
    known = affected(resources.state, samples, resources.datasets)
    for cycle, names in known.cycles.items():
        _say(console, f"{cycle} selected {_named(names)}")
    for version, names in known.versions.items():
        _warn(console, f"dataset version {version} still contains {_named(names)}")
    if known.versions:
        _warn(
            console,
            "Dataset versions never change: these copies stay, as do training folders made of them, and models "
            "trained on them have learnt from these pictures. Future versions are made without them.",
        )
    return known.cycles.keys(), known.versions


def _delete_pages(
    resources: Resources, console: Console, cycles: Collection[str], images: Collection[str]
) -> None:
    """Delete the reviews of what these cycles added, and all pages of cycles that name an image: they show pictures."""
    reviews = {page for cycle in cycles if (page := resources.review_page(cycle)).exists()}
    pages = reviews.union(resources.pages_with(images))
    for page in pages:
        page.unlink()
    if pages:
        _say(console, f"{len(pages)} pages of cycles that show them were deleted")


def _show_drafts(resources: Resources, console: Console) -> None:
    """Delete the pictures from what was never committed, and say so."""
    found = resources.datasets.purge(forgotten_samples(resources.state))
    for draft, pictures in found.drafts.items():
        _say(
            console,
            f"{pictures} pictures were taken out of the draft of dataset version {draft}, never committed",
        )
    if found.packs:
        _say(console, f"{found.packs} files with packs of no dataset version were deleted")


def _show_left(resources: Resources, console: Console, scope: Scope, report: ForgetReport) -> None:
    if scope.cameras or scope.models:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(report.refused_until))
        _say(
            console,
            f"What they hand over is refused until {until} UTC, because the clocks of collecting hosts may be ahead; "
            "what comes later is collected again",
        )
    if report.counting:
        _warn(
            console,
            f"{report.counting} running processes still publish counts by the camera's name, until they end: "
            "run the same command again then",
        )
    if report.erased.left:
        _warn(console, report.erased.left)
    if (url := resources.config.data_collection.redis_url) is not None:
        _warn(console, _left_in_redis(url))


def _left_in_redis(url: str) -> str:
    from retrain.data_collection.redis_backend.care import StreamCare
    from retrain.data_collection.redis_backend.connection import RedisConnection

    connection = RedisConnection(url)
    depth = StreamCare(connection).depth()
    return (
        f"{connection.place} holds {depth.entries} frames that wait and {depth.dead} dead letters: forgotten pictures "
        "among them stay there until `retrain collect drain` comes to them and refuses them. If it keeps an "
        "append-only file, the bytes are in that until it is rewritten: after the drain, run BGREWRITEAOF there."
    )


def _say(console: Console, said: str) -> None:
    console.print(Text(said), soft_wrap=True)


def _warn(console: Console, said: str) -> None:
    console.print(Text(said, style="yellow"), soft_wrap=True)


def _named(samples: Sequence[str]) -> str:
    shown = ", ".join(name[:12] for name in samples[:_SHOWN])
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    return f"{len(samples)} of them: {shown}{more}"
