"""XML of annotations: elements, texts and attributes; no document types, so no entities, and a bounded size.

Entity attacks (billion laughs, external files and addresses) need a document type declaration; a file with one is
rejected as soon as it is encountered.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from resnet_jax.data.kinds.files import read_bytes
from resnet_jax.errors import DataError

MAX_BYTES = 16 << 20
MAX_DEPTH = 32


def parse_xml(path: str) -> Element:
    """Return the root of an XML file.

    Raises:
        DataError: if it cannot be read, is too large, too deep or not XML, or declares a document type.
    """
    data = read_bytes(path, MAX_BYTES)
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path}: elements lie {depth} deep in each other; an annotation has at most {MAX_DEPTH}")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def doctype(*_: object) -> None:
        raise DataError(f"{path}: it declares a document type (<!DOCTYPE), which may define entities; remove that line")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{path}: this is no whole XML file ({error})") from error
    return builder.close()
