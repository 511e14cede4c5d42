import string
import time

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from retrain.dataset.reading.query import parse_query
from retrain.dataset.version import DatasetItem, LabelledObject
from retrain.errors import BadInput

CLASSES = ("car", "truck", "traffic light", 'quote"d')
NOVEMBER_1 = 1793491200.0
"""2026-11-01T00:00:00Z"""


def item_with(classes=(), **changes):
    objects = tuple(LabelledObject(f"a-{i}", index, (1.0, 1.0, 2.0, 2.0)) for i, index in enumerate(classes))
    plain = DatasetItem(
        image="ab12" + "0" * 60,
        pack="cd" * 32,
        format="png",
        width=640,
        height=480,
        objects=objects,
        split="train",
        group="north/run [3]",
        source="human",
        metadata={
            "camera": "north-1",
            "captured_at": NOVEMBER_1,
            "weather": "light rain",
            "lane": 3,
            "speed": 2.5,
            "wet": True,
            "tags": ["night", 7],
            "nothing": None,
            "odd": {"a": 1},
        },
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.mark.parametrize(
    "condition",
    [
        "split=train",
        "split=val,train",
        "split!=test,val",
        "class=car",
        "class=truck, car",
        "class!=truck",
        "camera=north*",
        "camera=north-?",
        "camera!=south*,east*",
        'group="north/run [3]"',
        "group=north*[3]",
        "source!=auto",
        "image=ab",
        "image=ff,AB12",
        "image!=b",
        "width>=640",
        "width=640",
        "width!=641",
        "height<481",
        "objects>1",
        "objects=5,2",
        "captured_at=2026-10-31,2026-11-01",
        'metadata.weather="light rain"',
        "metadata.weather=*rain",
        "metadata.weather!=snow",
        "metadata.lane=3",
        "metadata.lane>2.5",
        "metadata.speed=2.5",
        "metadata.speed<=2.5",
        "metadata.wet=true",
        "metadata.tags=day,night",
        "metadata.tags=7",
        "metadata.tags!=day",
        "captured_at=2026-11-01",
        "captured_at<=2026-11-01",
        "captured_at>2026-10-31",
        "captured_at!=2026-10-31",
        "captured_at=2026-11-01T01:00:00+01:00",
        'captured_at>="2026-10-31 23:59"',
        "  split = train   width >= 640  ",
    ],
)
def test_an_image_that_fulfils_a_condition_is_meant(condition):
    assert parse_query(condition, CLASSES)(item_with([0, 0])) is True


@pytest.mark.parametrize(
    "condition",
    [
        "split=val,test",
        "split!=train",
        "class=truck",
        "class!=truck,car",
        "camera=north",
        "camera=NORTH*",
        "camera!=north*",
        "group=north/run",
        "source!=human",
        "image=b12",
        "width>640",
        "width!=1,640",
        "height<480",
        "objects>2",
        "metadata.weather=rain",
        "metadata.weather!=*rain",
        "metadata.lane>3",
        "metadata.wet=True",
        "metadata.tags!=night",
        "metadata.tags=nigh",
        "captured_at>2026-11-01",
        "captured_at<2026-11-01",
        "captured_at!=2026-11-01",
        "captured_at=2026-11-01T00:00:01",
        "split=train width>=641",
        ["split=train", "class=truck"],
    ],
)
def test_an_image_that_does_not_fulfil_every_condition_is_not_meant(condition):
    assert parse_query(condition, CLASSES)(item_with([0, 0])) is False


@pytest.mark.parametrize(
    "field", ["metadata.missing", "metadata.nothing", "metadata.odd", "camera", "captured_at"]
)
@pytest.mark.parametrize("sign", ["=", "!="])
def test_an_image_of_which_nothing_is_known_is_never_meant(field, sign):
    item = item_with()
    if not field.startswith("metadata."):
        item = msgspec.structs.replace(item, metadata={})

    assert parse_query(f"{field}{sign}2026-11-01", CLASSES)(item) is False


@pytest.mark.parametrize("value", ["soon", True, float("nan"), 1.793e12, [1]])
def test_a_capture_time_that_is_none_is_never_compared(value):
    item = item_with(metadata={"captured_at": value})

    assert not any(
        parse_query(f"captured_at{sign}2026-11-01", CLASSES)(item) for sign in ("=", "!=", "<", ">=")
    )


@pytest.mark.parametrize("field", ["weather", "wet", "tags"])
def test_metadata_that_are_no_number_are_never_ordered(field):
    item = item_with()

    assert not any(parse_query(f"metadata.{field}{sign}0", CLASSES)(item) for sign in ("<", "<=", ">", ">="))


@pytest.mark.parametrize(
    ("captured_at", "is_later"),
    [
        ("2026-11-01T23:59:59", False),
        ("2026-11-02T00:00:00+00:00", True),
        ("2026-11-02T00:30:00+01:00", False),
        ("2026-11-01", False),
        (NOVEMBER_1 + 86_399.9, False),
        (NOVEMBER_1 + 86_400, True),
    ],
)
def test_a_date_stands_for_its_whole_day_however_the_metadata_write_the_time(captured_at, is_later):
    item = item_with(metadata={"captured_at": captured_at})
    meant = {sign: parse_query(f"captured_at{sign}2026-11-01", CLASSES)(item) for sign in ("=", ">", "<=")}

    assert meant == {"=": not is_later, ">": is_later, "<=": not is_later}


def test_an_image_without_objects_shows_no_class():
    item = item_with([])

    assert parse_query("class!=car objects=0", CLASSES)(item)
    assert not parse_query("class=car,truck", CLASSES)(item)


def test_two_conditions_on_the_class_ask_for_both():
    both = parse_query(["class=car", "class=truck"], CLASSES)

    assert both(item_with([0, 1]))
    assert not both(item_with([0]))


def test_the_text_is_canonical():
    texts = {
        parse_query(way, CLASSES).text
        for way in (
            ["width >= 0640", "class='traffic light', car", 'split="train"'],
            'split=train  class=car,"traffic light",car width>=640 split=train',
        )
    }

    assert texts == {'class="traffic light",car split=train width>=640'}


words = st.text(string.printable + "äß\u2028", min_size=0, max_size=8)
signs = st.sampled_from(["=", "!="])


def quoted(text):
    return f"'{text}'" if '"' in text else f'"{text}"'


@given(
    conditions=st.lists(
        st.tuples(st.sampled_from(["camera", "group", "source", "metadata.a-b.c"]), signs, words),
        min_size=1,
        max_size=4,
    )
)
def test_the_text_of_a_query_reads_back_as_the_same_query(conditions):
    assume(not any('"' in value and "'" in value for _, _, value in conditions))
    query = parse_query([f"{name}{sign}{quoted(value)}" for name, sign, value in conditions], CLASSES)
    item = item_with(group=conditions[0][2], source=conditions[-1][2], metadata={"a-b.c": conditions[0][2]})

    again = parse_query(query.text, CLASSES)

    assert again == query
    assert again(item) == query(item)


@given(value=words)
def test_a_quoted_value_matches_itself_and_its_opposite_does_not(value):
    assume(not ('"' in value and "'" in value))
    item = item_with(source=value)

    assert parse_query(f"source={quoted(value)}", CLASSES)(item)
    assert not parse_query(f"source!={quoted(value)}", CLASSES)(item)


@given(text=st.text(string.printable, max_size=30))
def test_whatever_is_written_is_either_read_or_refused_in_words(text):
    try:
        query = parse_query(text, CLASSES)
    except BadInput:
        return
    assert parse_query(query.text, CLASSES) == query


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ("", r"A query needs at least one condition, for example split=train\."),
        ([], r"A query needs at least one condition"),
        ("split", r"Cannot read 'split'\. Write conditions as field, sign and value, separated by spaces"),
        ("split=", r"Cannot read 'split='"),
        ("split=train and width>5", r"Cannot read 'and width>5'"),
        ("class=traffic light", r"Cannot read 'light'"),
        ("class=car,", r"Cannot read 'class=car,'"),
        ("group='open", r"Cannot read \"group='open\""),
        (
            "clas=car",
            r"Unknown field 'clas'\. Did you mean 'class'\? Fields are split, .* and metadata\.<key>\.",
        ),
        ("zzz=1", r"Unknown field 'zzz'\. Fields are split, "),
        ("metadata.=1", r"Unknown field 'metadata\.'\. Did you mean 'metadata\.<key>'\?"),
        (
            "class=cra",
            r"Unknown class 'cra'\. Did you mean 'car'\? Classes are car, truck, traffic light, quote\"d\.",
        ),
        ("split=dev", r"Unknown split 'dev'\. Splits are train, val and test\."),
        ("split>train", r"split cannot be compared by '>'\. Signs for split are = !=\."),
        ("class==car", r"class cannot be compared by '=='\. Signs for class are = !=\."),
        ("width=~3", r"width cannot be compared by '=~'\. Signs for width are = != < <= > >=\."),
        ("width>=1,2", r"width>= takes one value, got 1, 2\."),
        ("width>=640.5", r"width is compared with whole numbers from 0, got '640\.5'\."),
        ("objects=\u0665", r"objects is compared with whole numbers from 0, got '\u0665'\."),
        ("metadata.lane>fast", r"metadata\.lane> is compared with a number, got 'fast'\."),
        ("metadata.lane>inf", r"metadata\.lane> is compared with a number, got 'inf'\."),
        ("image=xyz", r"image is compared with the first 1 to 64 hex characters of a digest, got 'xyz'\."),
        (
            "captured_at>=2026",
            r"captured_at is compared with a date or time as 2026-11-01 or .*, got '2026'\.",
        ),
        ("captured_at>=2026-W44", r"got '2026-W44'\."),
        ("captured_at>=2026-13-01", r"got '2026-13-01'\."),
        ("captured_at>=0001-01-01T00:00+14:00", r"got '0001-01-01T00:00\+14:00'\."),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(conditions, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_query(conditions, CLASSES)


def test_of_many_classes_an_error_names_the_nearest_and_some():
    with pytest.raises(
        BadInput, match=r"Did you mean 'class-77'\? Classes are class-0, .*, class-19 and 80 more\."
    ):
        parse_query("class=clas-77", [f"class-{n}" for n in range(100)])


def test_a_query_of_every_kind_takes_a_second_or_so_for_a_hundred_thousand_images():
    items = [item_with([0, 1, 2], image=f"{n:064x}") for n in range(2000)]
    query = parse_query(
        "split=train class=truck camera=*th* group!=x*y* image=0 width>=640 objects>2 metadata.tags=night "
        "metadata.lane>2 captured_at>=2026-11-01",
        CLASSES,
    )

    began = time.process_time()
    found = sum(query(item) for item in items)
    took_s = time.process_time() - began

    assert found == 2000
    assert took_s * 50 < 3
