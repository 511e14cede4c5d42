"""`retrain collect forget` and `retrain collect retain`: deletes collected samples and says what stays elsewhere."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, affected, find_samples
from retrain.data_collection.forgetting.forget import forget as forget_samples
from retrain.data_collection.forgetting.retention import RetentionPolicy, RetentionReport, retain
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
) -> None:
    """Forget samples for good, and print which cycles and dataset versions know them.

    Args:
        samples: digests of images.
        cameras, models: names; everything they collected until now.
        dry_run: only print what would go.

    Raises:
        BadInput: nothing is named, or something that is no sample id.
        Conflict: a running cycle uses some, or somebody else deletes samples now; nothing was forgotten.
    """
    scope = Scope(tuple(samples), tuple(cameras), tuple(models))
    found = find_samples(resources.state, scope)
    console.print(Text(f"{len(found)} stored samples {'would be' if dry_run else 'are'} forgotten"))
    # Said first: should this be killed half-way, nobody could say it afterwards.
    _show_affected(resources, console, sorted({*found, *samples}))
    if dry_run:
        return
    with (
        resources.leases.acquire(DELETION, LEASE_S) as lease,
        resources.collection_service(background=False) as service,
    ):
        eraser = _eraser(resources, lease)
        report = forget_samples(eraser, scope, now=now, reason=reason, drainer=service.drainer)
        resources.forget_in_redis(report.samples)
    console.print(
        Text(
            f"{len(report.samples)} samples forgotten, {report.refused} records in the spool refused; "
            f"{report.erased.packs} packs replaced or deleted, {report.erased.bytes} bytes freed"
        )
    )


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
        resources.forget_in_redis(report.samples)
    console.print(
        Text(
            f"{len(report.samples)} samples deleted, {report.packs} packs replaced or deleted, "
            f"{report.bytes_freed} bytes freed: {report.bytes_before} before, {report.bytes_after} now"
        )
    )
    if report.over:
        console.print(
            Text(f"{report.over} bytes too many are left: a running cycle uses them", style="yellow")
        )
    return report


def _eraser(resources: Resources, lease: Lease) -> Eraser:
    return Eraser(resources.state, resources.sample_blobs, resources.home / "cache", lease.check)


def _show_affected(resources: Resources, console: Console, samples: Sequence[str]) -> None:
    known = affected(resources.state, samples, resources.datasets)
    for cycle, names in known.cycles.items():
        console.print(Text(f"{cycle} selected {_named(names)}"))
    for version, names in known.versions.items():
        console.print(Text(f"dataset version {version} still contains {_named(names)}", style="yellow"))
    if known.versions:
        console.print(
            Text(
                "Dataset versions never change and cannot forget yet: these copies stay, as do training folders made "
                "of them, and models trained on them have learnt from these pictures.",
                style="yellow",
            )
        )


def _named(samples: Sequence[str]) -> str:
    shown = ", ".join(name[:12] for name in samples[:_SHOWN])
    more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
    return f"{len(samples)} of them: {shown}{more}"
