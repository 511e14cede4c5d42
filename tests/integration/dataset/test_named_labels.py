import pytest

from retrain.dataset.manager import DatasetManager
from retrain.errors import BadInput


@pytest.fixture
def manager(tmp_path):
    return DatasetManager(tmp_path / "datasets")


def car(*box, name="car"):
    return {"class": name, "box": list(box)}


def test_the_readme_example_of_the_user_works_as_written(manager, build, tmp_path):
    image_paths = []
    for number in range(6):
        image_paths.append(tmp_path / f"{number}.png")
        image_paths[-1].write_bytes(build.image(number))
    annotations = [[car(1, 2, 9, 9), car(3, 3, 8, 8, name="bus")], [], *[[car(1, 1, 5, 5)]] * 4]

    version = manager.create_version(
        name="v1.0.0", description="Initial dataset", splits={"train": 0.7, "val": 0.2, "test": 0.1}
    )
    manager.add_images(version.id, image_paths, annotations)
    manager.commit(version)
    dataset = manager.get_version("v1.0.0")

    assert dataset.classes == ("bus", "car")
    assert dataset.objects_by_class() == {"bus": 1, "car": 5}
    assert {item.metadata["file"] for item in dataset.items} == {f"{n}.png" for n in range(6)}


def test_a_misspelt_class_is_refused_where_classes_are_known_and_leaves_no_class_behind(manager, build):
    v1 = manager.create_version("v1.0.0", classes=["car", "bus"])
    with pytest.raises(
        BadInput, match=r"has class 'cra', but the version has car, bus; did you mean 'car'\?"
    ):
        manager.add_images(v1, [build.image(1)], [[car(1, 1, 5, 5, name="cra")]])
    v2 = manager.create_version("v2.0.0")
    with pytest.raises(BadInput, match="1 of 2 images cannot be added"):
        manager.add_images(v2, [build.image(1), b"no image"], [[car(1, 1, 5, 5, name="cra")], []])
    manager.add_images(v2, [build.image(1)], [[car(1, 1, 5, 5)]])

    assert manager.commit(v2).classes == ("car",)


@pytest.mark.parametrize(
    "wrong", [{"class": "car"}, {"class": "car", "box": [1, 2, 3]}, {"class": "car", "box": "x"}, "car", 3]
)
def test_an_object_of_another_shape_is_refused_in_words(manager, build, wrong):
    draft = manager.create_version("v1.0.0", classes=["car"])

    with pytest.raises(BadInput, match="image 0"):
        manager.add_images(draft, [build.image(1)], [[wrong]])


def test_a_version_without_any_class_is_refused(manager, build):
    draft = manager.create_version("v1.0.0")
    manager.add_images(draft, [build.image(1)], [[]])

    with pytest.raises(BadInput, match="would have no classes"):
        manager.commit(draft)
