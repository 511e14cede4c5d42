import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from retrain.pages import lettering
from retrain.pages.lettering import in_any_script, legible

RUNIC = "ᚠ"


@pytest.fixture
def forget():
    """What was found installed, before and after."""

    def clear():
        lettering._others.cache_clear()
        lettering._letters.cache_clear()

    clear()
    yield
    clear()


@pytest.fixture
def runic_font(forget, tmp_path: Path, monkeypatch):
    """Installed, with one letter that is a square filled black."""
    pen = TTGlyphPen(None)
    for draw, corner in zip(
        [pen.moveTo, *[pen.lineTo] * 3], [(0, 0), (0, 900), (900, 900), (900, 0)], strict=True
    ):
        draw(corner)
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", "fe"])
    font.setupCharacterMap({ord(RUNIC): "fe"})
    font.setupGlyf({".notdef": empty, "fe": square})
    font.setupHorizontalMetrics({".notdef": (500, 0), "fe": (1000, 0)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Noto Sans Of A Test", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "runic.ttf")
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    fontManager.addfont(tmp_path / "runic.ttf")


def drawn(text: str) -> np.ndarray:
    # What another test imports may have set a style.
    with style.context("default"):
        figure = Figure(figsize=(2, 2))
        canvas = FigureCanvasAgg(figure)
        figure.text(0.2, 0.2, text, fontsize=40)
        in_any_script(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0]


def test_a_letter_comes_from_an_installed_font_that_has_it(runic_font, caplog):
    name = f"a {RUNIC}"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_letter, without = drawn(legible(name, "class 3")), drawn("a")

    assert legible(name, "class 3") == name
    # The square of a side of 50 pixels, beside the same a.
    assert 2000 < np.count_nonzero(with_letter < 10) - np.count_nonzero(without < 10) < 2600
    assert not caplog.records


@pytest.mark.usefixtures("forget")
def test_a_name_that_no_font_can_show_is_replaced(monkeypatch):
    monkeypatch.setattr(
        fontManager, "ttflist", [font for font in fontManager.ttflist if "DejaVu" in font.name]
    )

    assert legible("猫", "class 3") == "class 3"
    assert legible("हिन्दी", "class 4") == "class 4"
    assert legible("кошка", "class 5") == "кошка"
    assert legible("قطة", "class 6") == "قطة"


def test_of_a_long_name_both_ends_are_shown():
    digests = [f"{'0' * 60}{end}" for end in ("abcd", "ef01")]

    first, second = (legible(digest, "before") for digest in digests)

    assert (len(first), first[-4:], second[-4:]) == (36, "abcd", "ef01")
    assert legible("a" * 36, "class 3") == "a" * 36


def test_dollars_and_underscores_are_no_signs_to_matplotlib():
    assert legible("$a_", "class 3") == r"\$a_"
    assert legible("_", "class 3") == " _"
