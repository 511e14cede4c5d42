from collections import Counter

from retrain.dataset.report.samples import choose_samples

BOX = (1.0, 1.0, 40.0, 40.0)


def test_every_class_and_an_image_without_objects_is_shown_where_the_number_allows(album):
    items = [album.picture(n, [(0, BOX)]) for n in range(20)]
    rare, empty = album.picture(30, [(1, BOX)]), album.picture(31)

    chosen = choose_samples([*items, rare, empty], 3)

    assert rare in chosen
    assert empty in chosen
    assert chosen[0] == rare


def test_cameras_take_turns(album):
    cameras = ["north"] * 15 + ["south"] * 3
    items = [album.picture(n, [(0, BOX)], metadata={"camera": name}) for n, name in enumerate(cameras)]

    chosen = choose_samples(items, 6)

    assert Counter(item.metadata["camera"] for item in chosen) == {"north": 3, "south": 3}


def test_the_same_images_are_chosen_in_any_order_and_none_twice(album):
    items = [album.picture(n, [(n % 3, BOX), ((n + 1) % 3, BOX)]) for n in range(12)]

    chosen = choose_samples(items, 7)

    assert choose_samples(items[::-1], 7) == chosen
    assert len({item.image for item in chosen}) == 7


def test_all_images_are_chosen_when_there_are_fewer(album):
    items = [album.picture(n, [(0, BOX)]) for n in range(3)]

    assert len(choose_samples(items, 50)) == 3
    assert choose_samples(items, 0) == choose_samples([], 5) == ()
