import io
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from retrain.boxes import Annotations
from retrain.dataset.manager import DatasetManager

CLASSES = ("zero", "one", "two")


def encoded_image(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(manager: DatasetManager, draft, seeds, side: int = 24, shift: float = 0.0, **options):
    """Add one image per seed, four to a recording, with one box each."""
    return manager.add_images(
        draft,
        [encoded_image(seed, side) for seed in seeds],
        [Annotations.of([[1.0 + shift, 2.0, 12.0, 13.5]], [seed % len(CLASSES)]) for seed in seeds],
        groups=[f"recording-{seed // 4}" for seed in seeds],
        sources=options.pop("sources", "seed"),
        metadata=[{"camera": f"camera-{seed % 2}"} for seed in seeds],
        **options,
    )


def make_version(manager: DatasetManager, name: str, seeds, parent: str | None = None, **options):
    draft = manager.create_version(name, f"about {name}", parent=parent, classes=None if parent else CLASSES)
    fill(manager, draft, seeds, **options)
    return manager.commit(draft)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@pytest.fixture(scope="session", autouse=True)
def compiled_modules(tmp_path_factory):
    """DVC starts in 0.9 s instead of 2.8 s where Python was told not to keep compiled modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("compiled")))
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session")
def first_version_folder(tmp_path_factory, compiled_modules):
    """A repository with v1.0.0; tests work on copies, since making one takes 3 s."""
    folder = tmp_path_factory.mktemp("dataset") / "first"
    make_version(DatasetManager(folder), "v1.0.0", range(24))
    return folder


@pytest.fixture
def manager(first_version_folder, tmp_path):
    shutil.copytree(first_version_folder, tmp_path / "datasets", symlinks=True)
    return DatasetManager(tmp_path / "datasets")


@pytest.fixture
def build():
    """The functions above, for tests (which cannot import a conftest)."""
    return SimpleNamespace(image=encoded_image, fill=fill, version=make_version, git=git, classes=CLASSES)
