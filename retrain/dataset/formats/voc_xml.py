"""One XML file of Pascal VOC."""

import decimal
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from retrain.dataset.formats.checks import number, shown
from retrain.dataset.version import DatasetItem
from retrain.errors import BadInput

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NOT_IN_XML = re.compile(r"[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A float has at most 767 significant digits: sums of one and 1 are exact.
_EXACT = decimal.Context(prec=1100)


@dataclass(frozen=True)
class VocObject:
    """One object.

    Attributes:
        box: xyxy in pixels, in our convention.
    """

    name: str
    box: tuple[float, float, float, float]
    where: str


@dataclass(frozen=True)
class Fault:
    """An object that has no box one could use."""

    where: str
    what: str


@dataclass(frozen=True)
class VocLabels:
    """What one file says.

    Attributes:
        size: width and height as stated; None where they are not.
    """

    filename: str = ""
    size: tuple[float | None, float | None] = (None, None)
    objects: tuple[VocObject, ...] = ()
    faults: tuple[Fault, ...] = field(default=())


def parse_labels(data: bytes, *, one_based: bool) -> VocLabels:
    """Read one file.

    Raises:
        BadInput: the file as a whole cannot be used; the message is the reason only.
    """
    root = _parsed(data)
    if root.tag != "annotation":
        raise BadInput(f"is not VOC: its root is <{shown(root.tag)}>, not <annotation>")
    objects, faults = [], []
    for index, element in enumerate(root.findall("object"), 1):
        name = _text(element, "name")
        where = f"object {index} ({name[:60]})" if name else f"object {index}"
        try:
            objects.append(VocObject(name, _box(element, name, one_based), where))
        except BadInput as e:
            faults.append(Fault(where, str(e)))
    size = _side(root, "width"), _side(root, "height")
    return VocLabels(_text(root, "filename"), size, tuple(objects), tuple(faults))


def voc_xml(item: DatasetItem, classes: Sequence[str], *, one_based: bool) -> bytes:
    """The label file of an item.

    Raises:
        BadInput: a class name has characters that XML cannot hold, or spaces around it, which readers strip.
    """
    root = ET.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", item.file_name)
    size = ET.SubElement(root, "size")
    for tag, value in (("width", item.width), ("height", item.height), ("depth", 3)):
        _add(size, tag, str(value))
    _add(root, "segmented", "0")
    for o in item.objects:
        element = ET.SubElement(root, "object")
        _add(element, "name", _writable(classes[o.class_index]))
        _add(element, "difficult", "0")
        box = ET.SubElement(element, "bndbox")
        for position, (tag, edge) in enumerate(zip(_CORNERS, o.box, strict=True)):
            _add(box, tag, _written(edge, shift=1 if one_based and position < 2 else 0))
    ET.indent(root)
    encoded: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return encoded + b"\n"


def _parsed(data: bytes) -> ET.Element:
    """The root element. Entities are refused where they are declared: they can name files and grow without end."""
    parser, builder = expat.ParserCreate(), ET.TreeBuilder()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as e:
        if isinstance(e, BadInput):
            raise
        raise BadInput(f"is not valid XML: {e}" if data else "is empty (0 bytes)") from e


def _refuse_entity(name: str, *_: object) -> NoReturn:
    raise BadInput(f"declares the XML entity {shown(name)}, which is not accepted")


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _side(root: ET.Element, tag: str) -> float | None:
    text = _text(root, f"size/{tag}")
    if not text:
        return None
    try:
        return number(text)
    except BadInput as e:
        raise BadInput(f"states a {tag} that is none: {e}") from e


def _box(element: ET.Element, name: str, one_based: bool) -> tuple[float, float, float, float]:
    if not name:
        raise BadInput("has no name")
    if (bndbox := element.find("bndbox")) is None:
        raise BadInput("has no bndbox")
    texts = {child.tag: (child.text or "").strip() for child in bndbox}
    values = []
    for position, tag in enumerate(_CORNERS):
        if not (text := texts.get(tag)):
            raise BadInput(f"has no {tag}")
        try:
            values.append(_shifted(text, by=-1 if one_based and position < 2 else 0))
        except BadInput as e:
            raise BadInput(f"has an {tag} that is none: {e}") from e
    return values[0], values[1], values[2], values[3]


def _shifted(text: str, by: int) -> float:
    """Add to a decimal number, as 0.1 + 1 - 1 is not 0.1 in floating point."""
    value = number(text)
    is_whole = text.isdigit() and len(text) < 16
    # Digits without end are of no use here, and slow.
    if not by or is_whole or len(text) > 1100:
        return value + by
    return float(_EXACT.add(decimal.Decimal(text), by))


def _written(edge: float, shift: int) -> str:
    """The shortest decimal that means this number exactly, without an exponent where old tools would trip over it."""
    exact = _EXACT.add(decimal.Decimal(repr(edge)), shift)
    return f"{exact.to_integral_value():f}" if exact == exact.to_integral_value() else str(exact)


def _writable(name: str) -> str:
    if name != name.strip() or "\r" in name or _NOT_IN_XML.search(name):
        raise BadInput(
            f"Class {name!r} cannot be written as VOC: control characters and outer spaces get lost there."
        )
    return name


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = text
