import shutil

import pytest

from retrain.boxes import Annotations
from retrain.dataset.manager import DatasetManager
from retrain.dataset.reading.materialise import materialise
from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed
from retrain.storage.digests import content_digest


def test_a_committed_version_is_read_back_from_its_tag_by_another_manager(manager, build):
    again = DatasetManager(manager.repository.folder)

    version = again.get_version("v1.0.0")

    assert again.versions() == ["v1.0.0"]
    assert len(version.items) == 24
    assert {again.image_bytes(version, item) for item in version.items} == {build.image(n) for n in range(24)}
    assert content_digest(version.to_manifest()) == version.digest
    log = build.git(manager.repository.folder, "log", "--format=%s|%b|%an|%D", "-1", "v1.0.0")
    assert log.startswith(f"Dataset v1.0.0 {version.digest}|about v1.0.0\n|Retrain|")
    assert again.repository.status() == {}


def test_a_child_inherits_images_splits_and_packs_and_the_parent_stays_as_it_was(manager, build):
    before = manager.get_version("v1.0.0")

    child = build.version(manager, "v1.1.0", range(20, 36), parent="v1.0.0", sources="auto")

    assert [child.by_image[item.image] for item in before.items] == list(before.items)
    assert len(child.items) == 36
    packs = {item.pack for item in child.items}
    assert len(packs) == 2
    assert {f"{pack}.zip" for pack in packs} == names_in(manager.repository.folder / "packs")
    assert (child.parent, child.parent_digest) == ("v1.0.0", before.digest)
    by_group = {}
    for item in child.items:
        by_group.setdefault(item.group, set()).add(item.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert DatasetManager(manager.repository.folder).verify("v1.0.0") == before
    diff = manager.diff("v1.0.0", "v1.1.0")
    assert (len(diff.added), diff.removed, diff.relabelled) == (12, (), ())
    assert diff.images_by_source == {"seed": (24, 24), "auto": (0, 12)}
    assert manager.repository.status() == {}


def test_a_sibling_shows_exactly_its_own_packs_and_older_versions_can_be_shown_again(manager, build):
    build.version(manager, "v1.1.0", range(40, 44), parent="v1.0.0")
    sibling = build.version(manager, "v1.2.0", range(50, 54), parent="v1.0.0")

    folder = manager.repository.folder
    assert {f"{item.pack}.zip" for item in sibling.items} == names_in(folder / "packs")
    manager.repository.checkout("v1.0.0")
    assert len(names_in(folder / "packs")) == 1
    after = build.version(manager, "v1.3.0", range(60, 64), parent="v1.2.0")
    assert (
        build.git(folder, "log", "--format=%D", "--first-parent", "main")
        .split("\n")[0]
        .endswith("tag: v1.3.0")
    )
    assert manager.versions() == ["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"]
    assert manager.verify("v1.3.0").digest == after.digest


def test_committing_the_same_again_gives_the_same_version_and_other_content_is_a_conflict(manager, build):
    first = build.version(manager, "v1.1.0", range(30, 34), parent="v1.0.0")
    commits = build.git(manager.repository.folder, "rev-list", "--count", "main")

    same = build.version(DatasetManager(manager.repository.folder), "v1.1.0", range(30, 34), parent="v1.0.0")
    without_draft = DatasetManager(manager.repository.folder).commit("v1.1.0")

    assert same.digest == without_draft.digest == first.digest
    with pytest.raises(Conflict, match=r"'v1.1.0' exists with other content .* choose a new name"):
        build.version(manager, "v1.1.0", range(30, 35), parent="v1.0.0")
    assert build.git(manager.repository.folder, "rev-list", "--count", "main") == commits
    assert manager.get_version("v1.1.0").digest == first.digest


def test_bad_images_are_all_named_and_none_is_added(manager, build, tmp_path):
    (tmp_path / "text.png").write_bytes(b"no image")
    (tmp_path / "good.png").write_bytes(build.image(70))
    draft = manager.create_version("v1.1.0", parent="v1.0.0")
    images = [tmp_path / "good.png", tmp_path / "text.png", tmp_path / "absent.png", build.image(71)]
    labels = [Annotations.empty()] * 3 + [Annotations.of([[0, 0, 5, 5]], [9])]

    with pytest.raises(BadInput) as caught:
        manager.add_images(draft, images, labels)
    report = manager.add_images(draft, images, labels, on_error="skip")

    for name in (
        f"{tmp_path}/text.png is not an image",
        f"{tmp_path}/absent.png cannot be read",
        "image 3 has class 9",
    ):
        assert name in str(caught.value)
    assert str(caught.value).startswith("3 of 4 images cannot be added, so none was:")
    assert len(report.added) == 1
    assert set(report.rejected) == {f"{tmp_path}/text.png", f"{tmp_path}/absent.png", "image 3"}
    assert len(manager.commit(draft).items) == 25


def test_labels_change_only_when_asked_and_the_change_is_a_new_version(manager, build):
    draft = manager.create_version("v1.1.0", parent="v1.0.0")
    with pytest.raises(BadInput, match=r"2 of 2 .* other labels; pass relabel=True"):
        build.fill(manager, draft, [0, 1], shift=0.5)
    report = build.fill(manager, draft, [0, 1], shift=0.5, relabel=True, sources="human")

    child = manager.commit(draft)

    assert len(report.relabelled) == 2
    diff = manager.diff("v1.0.0", "v1.1.0")
    assert (diff.added, diff.removed, len(diff.relabelled)) == ((), (), 2)
    parent = manager.get_version("v1.0.0")
    for image in diff.relabelled:
        assert [o.id for o in child.by_image[image].objects] == [o.id for o in parent.by_image[image].objects]
        assert child.by_image[image].pack == parent.by_image[image].pack


def test_what_a_draft_holds_is_seen_by_no_reader(manager, build):
    build.fill(manager, manager.create_version("v1.1.0", parent="v1.0.0"), range(30, 34))

    reader = DatasetManager(manager.repository.folder)

    assert reader.versions() == ["v1.0.0"]
    assert reader.repository.status() == {}
    with pytest.raises(NotFound, match=r"'v1.1.0' not found in .*datasets\. Existing: v1.0.0\."):
        reader.get_version("v1.1.0")


def test_a_draft_taken_over_by_another_process_refuses_its_old_owner(manager, build):
    draft = manager.create_version("v1.1.0", parent="v1.0.0")
    build.fill(manager, draft, [30])

    other = DatasetManager(manager.repository.folder)
    build.fill(other, other.create_version("v1.1.0", parent="v1.0.0"), [31])

    for late in (lambda: build.fill(manager, draft, [32]), lambda: manager.commit("v1.1.0")):
        with pytest.raises(Conflict, match="begun anew"):
            late()
    assert len(other.commit("v1.1.0").items) == 25


def test_wrong_arguments_are_refused_in_words(manager, build, tmp_path):
    with pytest.raises(
        BadInput, match=r"classes must begin with those of v1.0.0 \(zero, one, two\), got \['one'\]"
    ):
        manager.create_version("v2", parent="v1.0.0", classes=["one"])
    with pytest.raises(BadInput, match="classes must be different names, at least one"):
        DatasetManager(tmp_path / "new").create_version("v1", classes=[])
    with pytest.raises(NotFound, match=r"'v9' not found .* Existing: v1.0.0\."):
        manager.create_version("v2", parent="v9")
    with pytest.raises(BadInput, match=r"one of groups per image, got 1 for 2 images"):
        manager.add_images(
            manager.create_version("v2", classes=["a"]), [b"", b""], [Annotations.empty()] * 2, ["g"]
        )
    with pytest.raises(BadInput, match="Draft 'v2' has no images"):
        manager.commit("v2")
    with pytest.raises(NotFound, match="No draft 'v7'"):
        manager.commit("v7")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    with pytest.raises(BadInput, match=r"is not empty \(it has 'thesis.tex'\)"):
        DatasetManager(tmp_path / "mine").create_version("v1", classes=["a"])
    shutil.copytree(manager.repository.folder / ".git", tmp_path / "code" / ".git")
    with pytest.raises(BadInput, match="is a Git repository of something else"):
        DatasetManager(tmp_path / "code").versions()


def test_damage_in_storage_is_found(manager):
    version = manager.get_version("v1.0.0")
    (cached,) = manager.repository.listing("packs", "v1.0.0").values()
    data = bytearray(cached.read_bytes())
    data[300] ^= 1
    cached.chmod(0o644)
    cached.write_bytes(data)

    with pytest.raises(BadInput, match="is damaged"):
        manager.verify("v1.0.0")
    with pytest.raises(PostConditionFailed, match=r"v1.0.0 cannot be read back: .* is damaged"):
        manager.commit("v1.0.0")
    cached.unlink()
    with pytest.raises(NotFound, match="is not on this machine"):
        manager.image_bytes(version, version.items[0])


def test_a_version_materialises_for_training(manager, tmp_path):
    version = manager.get_version("v1.0.0")

    folder = materialise(version, manager, "train", tmp_path / "cache")

    assert (
        len(names_in(folder / "images")) == len(names_in(folder / "labels")) == len(version.in_split("train"))
    )
    assert materialise(version, manager, "train", tmp_path / "cache") == folder


def test_it_works_without_a_home_inside_another_repository_and_from_a_git_hook(tmp_path, build, monkeypatch):
    build.git(tmp_path, "init", "-q", "outer")
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "outer" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "outer" / ".git" / "index"))
    monkeypatch.chdir("/")

    build.version(DatasetManager(tmp_path / "outer" / "data sets"), "v1.0.0", range(4))

    monkeypatch.delenv("GIT_DIR")
    assert build.git(tmp_path / "outer", "tag") == ""
    assert build.git(tmp_path / "outer" / "data sets", "tag") == "v1.0.0\n"


def names_in(folder):
    return {path.name for path in folder.iterdir()}
