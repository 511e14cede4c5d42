"""Names in pictures, in whatever script they are: matplotlib's own font has no Chinese and no Hindi letters."""

from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

_LONGEST = 36
# Comes with matplotlib.
_OWN = "DejaVu Sans"
# Beginnings of names of fonts, the first asked first. Not any font: some have odd signs in place of letters.
_OTHERS = (
    "Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback", "Microsoft YaHei", "PingFang",
    "Hiragino Sans", "Malgun Gothic", "Nirmala UI", "Kohinoor", "Lohit", "FreeSans", "Arial Unicode MS", "Unifont",
)  # fmt: skip


def legible(name: str, otherwise: str) -> str:
    """A name as matplotlib is to be given it; of a long one the middle is left out, as it would cover the picture.

    Args:
        otherwise: taken if a letter of the name is in no installed font and would be an empty box.
    """
    if _missing(name).difference(*map(_letters, _others())):
        return otherwise
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[1 - _LONGEST // 2 :]}"
    # A dollar begins a formula, and what begins with an underscore is left out of a legend.
    text = short.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def in_any_script(figure: Figure) -> None:
    """Let each text of a figure take what matplotlib's own font has not from other installed fonts."""
    for text in figure.findobj(Text):
        if missing := _missing(text.get_text()):
            text.set_fontfamily([_OWN, *(name for name in _others() if missing & _letters(name))])


def _missing(text: str) -> frozenset[int]:
    return frozenset(map(ord, text)) - _letters(_OWN)


@cache
def _others() -> tuple[str, ...]:
    installed = sorted({font.name for font in fontManager.ttflist})
    return tuple(name for start in _OTHERS for name in installed if name.startswith(start))


@cache
def _letters(family: str) -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=[family]))).get_charmap())
