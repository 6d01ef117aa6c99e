"""multipart/form-data, parsed in memory: the body is bounded before it gets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import BadRequest

PARTS = 64
HEADER = 8192  # bytes of one part's headers


@dataclass(frozen=True, slots=True)
class Form:
    """Text fields (those named `x[]`, and those sent more than once, as lists) and files by their field's name."""

    fields: Mapping[str, str | list[str]]
    files: Mapping[str, bytes]


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: bytearray = field(default_factory=bytearray)  # of the header being read
    value: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)


def boundary(content_type: bytes) -> bytes:
    """What separates the parts. Raises BadRequest where the header does not say."""
    found = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not found:
        raise BadRequest("content-type: multipart/form-data without a boundary; let the client library set the header")
    return found


def parse_form(data: bytes, content_type: bytes) -> Form:
    """Raises BadRequest: no boundary, cut off, malformed, more than PARTS parts."""
    if not data:
        raise BadRequest("the body is empty; wanted a form with a file", code="empty_body")
    parts = _parts(data, boundary(content_type))
    fields: dict[str, str | list[str]] = {}
    files: dict[str, bytes] = {}
    for part in parts:
        disposition, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise BadRequest("a part of the form lacks `content-disposition: form-data; name=…`")
        try:
            name = options[b"name"].decode()
            text = None if b"filename" in options else part.data.decode()
        except UnicodeDecodeError:
            raise BadRequest("a text field of the form is not UTF-8") from None
        if text is None:
            files[name] = bytes(part.data)
        elif name.endswith("[]") or name in fields:
            earlier = fields.get(name, [])
            fields[name] = [*([earlier] if isinstance(earlier, str) else earlier), text]
        else:
            fields[name] = text
    return Form(fields, files)


def _parts(data: bytes, separator: bytes) -> list[_Part]:
    parts: list[_Part] = []
    ended = False

    def begin() -> None:
        if len(parts) >= PARTS:
            raise BadRequest(f"the form has more than {PARTS} parts")
        parts.append(_Part())

    def header_field(chunk: bytes, start: int, end: int) -> None:
        parts[-1].name += chunk[start:end]

    def header_value(chunk: bytes, start: int, end: int) -> None:
        parts[-1].value += chunk[start:end]
        if len(parts[-1].value) > HEADER:
            raise BadRequest(f"the headers of a part of the form exceed {HEADER} bytes")

    def header_end() -> None:
        part = parts[-1]
        part.headers[bytes(part.name).lower()] = bytes(part.value)
        part.name, part.value = bytearray(), bytearray()

    def part_data(chunk: bytes, start: int, end: int) -> None:
        parts[-1].data += memoryview(chunk)[start:end]

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            separator,
            {
                "on_part_begin": begin,
                "on_header_field": header_field,
                "on_header_value": header_value,
                "on_header_end": header_end,
                "on_part_data": part_data,
                "on_end": end,
            },
        )
        parser.write(data)
    except MultipartParseError as error:
        raise BadRequest(f"the form is malformed: {error}") from None
    if not ended:
        raise BadRequest("the form is cut off: its last boundary is missing")
    return parts
