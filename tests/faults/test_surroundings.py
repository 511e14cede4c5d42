"""One loop where it can hardly live: read-only checkout and HOME, no network, rotten images, a disk that fills up."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.small_world import WAITING, small_config

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
# Everything is read-only but a folder for temporary files, `.retrain` in the checkout, and the kernel's own.
NAMESPACE = """
mount --bind "$1" "$1"
mount -o remount,ro,bind /
mount --bind "$1/checkout/.retrain" "$1/checkout/.retrain"
mount --bind "$1/tmp" "$1/tmp"
mount --bind "$1/found" "$1/found"
mount -o remount,ro,bind "$1"
mount -t tmpfs -o size=12m retrain-test "$1/checkout/.retrain/datasets"
cd /
shift
exec "$@"
"""
# Runs in every Python process, also in those that Git, DVC and Prefect are; extensions written in C are left to the
# network namespace.
RECORDER = """
import os, sys

def record(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        target = arguments[1][0] if isinstance(arguments[1], tuple) else "localhost"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        target = arguments[0] or "localhost"
    else:
        return
    target = target.decode() if isinstance(target, bytes) else str(target)
    if target not in ("localhost", "::1", "0.0.0.0", "::") and not target.startswith("127."):
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{target} {event} by {sys.argv}\\n")

sys.addaudithook(record)
"""


@pytest.fixture(scope="module")
def lonely():
    """What `lonely_world.py` found, with `attempts` (addresses outside this machine) and `left` (temporary files)."""
    # Not below pytest's own folder: a mount in it must not be in the way of its tidying.
    with tempfile.TemporaryDirectory(prefix="retrain-lonely-") as name:
        folder = Path(name)
        lay_out(folder)
        _require_mounts(folder)
        done = subprocess.run(
            [
                *_unshared(folder),
                sys.executable,
                HERE / "lonely_world.py",
                folder / "checkout",
                folder / "found/world.json",
            ],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "nobody"),
                "TMPDIR": str(folder / "tmp"),
                "PYTHONPATH": f"{folder / 'recorder'}{os.pathsep}{folder / 'checkout'}",
                "ATTEMPTS": str(folder / "found/attempts"),
                "OMP_NUM_THREADS": "2",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        found = json.loads((folder / "found/world.json").read_text(encoding="utf-8"))
        found["attempts"] = (folder / "found/attempts").read_text(encoding="utf-8").splitlines()
        found["left"] = [path.name for path in (folder / "tmp").iterdir()]
        found["output"], found["checkout"] = done.stdout + done.stderr, str(folder / "checkout")
        yield found


def lay_out(folder):
    checkout = folder / "checkout"
    for package in ("retrain", "tasks", "flows", "deployments", "configs"):
        shutil.copytree(CHECKOUT / package, checkout / package)
    for file in ("pyproject.toml", "prefect.yaml", "params.yaml", "data.dvc"):
        shutil.copy(CHECKOUT / file, checkout / file)
    (checkout / ".retrain" / "datasets").mkdir(parents=True)
    (checkout / ".retrain" / "config.yaml").write_text(
        json.dumps(small_config(training={"fine_tune_epochs": 1})), encoding="utf-8"
    )
    for empty in ("tmp", "found", "nobody", "recorder"):
        (folder / empty).mkdir()
    (folder / "recorder" / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")


def _unshared(folder):
    return ["unshare", "--mount", "--net", "sh", "-euc", NAMESPACE, "sh", str(folder)]


def _require_mounts(folder):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root to mount a tmpfs")
    tried = subprocess.run([*_unshared(folder), "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"needs root to mount a tmpfs: {tried.stderr.strip()}")


def test_nothing_but_the_home_folder_could_be_written_and_no_network_was_there(lonely):
    assert lonely["surroundings"] == {
        "checkout": "EROFS",
        "home": "EROFS",
        "root": "EROFS",
        "network": "ENETUNREACH",
    }


def test_the_loop_runs_without_a_server_from_any_folder_and_serves_the_new_model(lonely):
    assert lonely["home"] == f"{lonely['checkout']}/.retrain"
    assert lonely["status"] == "promoted"
    assert lonely["served"] == lonely["champion"] == lonely["release"]


def test_the_local_stack_goes_up_and_down_there_too(lonely):
    code, said = lonely["stack"]

    assert code == 0, said
    assert "stopping prefect" in said


def test_no_library_looks_for_anything_outside_this_machine(lonely):
    attempts = lonely["attempts"]

    # The recorder works: it saw the one attempt the test itself made.
    assert any("192.0.2.1 socket.connect" in attempt for attempt in attempts)
    assert [attempt for attempt in attempts if not attempt.startswith("192.0.2.1 ")] == []


def test_no_library_asks_for_a_home_or_leaves_temporary_files(lonely):
    assert "nobody" not in lonely["output"]
    # Prefect's worker keeps an empty folder there for flow code it would have to fetch.
    assert lonely["left"] in ([], ["runner_storage"])


def test_commands_say_in_one_line_what_cannot_be_written_and_what_to_do(lonely):
    home = (
        "error: Cannot write to the home folder <checkout>/elsewhere: Read-only file system. "
        "Set RETRAIN_HOME to one you may write to."
    )
    data = (
        "error: Cannot write <checkout>/data: Read-only file system. "
        "Make it writable, or name a copy of the repository that is."
    )
    assert lonely["commands"] == {
        "config": [0, ""],
        "status": [1, ""],
        "cycle run": [1, home],
        "up": [1, home],
        "data restore": [1, data],
    }


def test_corrupt_frames_are_counted_and_the_good_ones_among_them_kept(lonely):
    offered = lonely["offered"]

    assert offered["counts"] == {"taken": 12, "rejected": 4}  # an empty image is seen at once
    assert offered["outcomes"]["rejected"] == 8  # these only by a decoder
    assert offered["outcomes"]["stored"] == WAITING + 4


def test_samples_whose_image_rotted_are_left_out_by_name_and_the_cycle_goes_on(lonely):
    gone, garbage, exchanged = lonely["spoilt"]

    assert lonely["left_out"] == {
        gone: "its stored image is damaged",
        garbage: "its stored image is damaged",
        exchanged: "its stored image is damaged",
    }
    assert lonely["labels"] == {"auto": WAITING + 4 - 3, "human": 0, "left_out": 3}
    assert all(f"sample {name} is left out" in lonely["output"] for name in lonely["spoilt"])


def test_a_cycle_whose_disk_is_full_says_so_and_completes_once_there_is_room(lonely):
    *failed, last = lonely["runs"]

    assert [name for name, _ in failed] == ["Failed", "Failed"]
    assert all("StorageFull: No space left in " in message for _, message in failed)
    assert all("free some space, then run the same again." in message for _, message in failed)
    assert last[0] == "Completed"
    # Squares at the same place in two recordings are near-duplicates, and those may be in two splits.
    assert all(reason.startswith("would leak: ") for reason in lonely["leaking"].values())
    assert lonely["versions"]["v1.1.0"] == 48 + WAITING + 4 - 3 - len(lonely["leaking"])


def test_wherever_the_disk_is_full_while_a_version_is_made_the_error_is_the_same_and_nothing_is_lost(lonely):
    met = lonely["brim"]

    assert {kind for kind, _, _ in met} == {"StorageFull"}
    assert all("free some space, then run the same again." in message for _, message, _ in met)
    # The lock, the draft and its batches, and the packs; what Git and DVC do then needs less room than is left.
    assert {"_acquire", "write_durably", "disk_errors"} <= {place for _, _, place in met}
    assert list(lonely["versions"]) == ["v1.0.0", "v1.1.0", "v1.2.0"]
    assert lonely["versions"]["v1.2.0"] == lonely["versions"]["v1.1.0"] + 6
