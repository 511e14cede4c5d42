"""`retrain demo`: a home folder and a stack of its own, the demo flow, the verdict."""

import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from retrain.config import load_config
from retrain.environment import home, switches, writable
from retrain.errors import Conflict, PostConditionFailed

_MARKER = ".retrain-demo"
_KEPT = {_MARKER, "demo.lock"}


def run_demo(*, keep: bool, seed: int) -> None:
    """Run the demo from nothing and print its report.

    Args:
        keep: leave the stack running afterwards.
        seed: of the simulated world and the training.

    Raises:
        PostConditionFailed: something was not proven; the message says what.
        Conflict: another demo runs in the same home, or its folder holds what no demo made.
    """
    folder = writable(home()) / "demo"
    # A terminated demo must stop its servers too; by default SIGTERM skips every `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _alone(folder):
        _fresh(folder, seed)
        os.environ["RETRAIN_HOME"] = str(folder)
        os.environ.pop("RETRAIN_CONFIG", None)
        # Not `prepare`: the outer home's switches are already set, and would win.
        os.environ.update(switches(folder))
        _run(folder, keep=keep)


def _run(folder: Path, *, keep: bool) -> None:
    from rich.console import Console

    from deployments.stack import Stack
    from flows.demo_progress import DemoProgress

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    console = Console()
    config = load_config().config
    stack, progress = Stack(folder, config), DemoProgress(console)
    console.print(f"[bold]Retrain demo[/bold]: everything it makes is in {folder}")
    try:
        with progress.step("start Prefect server and worker") as step:
            stack.up(("prefect", "worker"), say=step.update)
            step.proof = f"both answer; {stack.prefect_url}"
        os.environ.update(stack.environment())
        with _quiet_prefect():
            from flows.demo import demo_flow
        from retrain.monitoring.report import LoopReport
        from retrain.monitoring.terminal import terminal_summary

        result = demo_flow(config, progress)
        console.print(terminal_summary(LoopReport.from_json(Path(result.report_json).read_bytes())))
        console.print(f"report: {result.report_html}")
        # To be copied, so neither broken into lines nor read as markup.
        console.print(_how_to_look_on(folder), soft_wrap=True, markup=False, highlight=False)
        if keep:
            stack.up(say=lambda _: None)
            console.print(
                f"Prefect: {stack.prefect_url}   MLflow: {stack.mlflow_url}   stop: RETRAIN_HOME={folder} retrain down"
            )
        if result.failures:
            raise PostConditionFailed("the demo did not prove everything: " + "; ".join(result.failures))
    finally:
        if not keep:
            stack.down(say=lambda _: None)


def _how_to_look_on(folder: Path) -> str:
    """Other commands look at another home, in which the demo left nothing."""
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return f"look on: RETRAIN_HOME={shlex.quote(str(shown))} retrain cycle list"


def _fresh(folder: Path, seed: int) -> None:
    """An empty home with the demo's configuration and free ports."""
    from deployments.stack import Stack, free_port, is_free

    template = _template()
    _claim(folder)
    if (folder / "config.yaml").exists():
        os.environ["RETRAIN_HOME"] = str(folder)
        Stack(folder, load_config(folder / "config.yaml").config).down(say=lambda _: None)
    for entry in folder.iterdir():
        if entry.name not in _KEPT:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    values = yaml.safe_load(template.read_text(encoding="utf-8"))
    values.setdefault("simulation", {})["seed"] = seed
    values["training"]["seed"] = seed
    orchestration = values.setdefault("orchestration", {})
    for setting, default in (("prefect_port", 4200), ("mlflow_port", 5000)):
        if not is_free(orchestration.get(setting, default)):
            orchestration[setting] = free_port()
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _claim(folder: Path) -> None:
    """Mark an empty folder as the demo's, which it may empty again.

    Raises:
        Conflict: it is not empty and not marked.
    """
    marker = folder / _MARKER
    if not marker.exists() and any(entry.name not in _KEPT for entry in folder.iterdir()):
        raise Conflict(
            f"{folder} holds files that no demo made (it has no {_MARKER} file), and the demo would delete them. "
            "Move them away, or set RETRAIN_HOME to another folder."
        )
    marker.touch()


@contextmanager
def _quiet_prefect() -> Iterator[None]:
    """Prefect logs errors only, if it is imported in here: the demo shows its own progress.

    Prefect reads the level when it is imported. It goes away again, so that no service started later inherits it:
    their logs are where a person looks when the demo fails.
    """
    name = "PREFECT_LOGGING_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "ERROR"
    try:
        yield
    finally:
        del os.environ[name]


def _template() -> Path:
    """The demo's configuration in the checkout, or the packaged copy."""
    import deployments

    package = Path(str(deployments.__file__)).parent
    packaged = package / "configs" / "demo.yaml"
    return packaged if packaged.exists() else package.parent / "configs" / "demo.yaml"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "demo.lock", timeout=0.5):
            yield
    except Timeout as error:
        raise Conflict(
            f"Another demo is running in {folder}. Wait for it, or set RETRAIN_HOME to run a second."
        ) from error
