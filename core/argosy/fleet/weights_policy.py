"""What may come over a network: data, yes; pickles and code, only by name.

A pickle runs code when it is loaded, and a repository's Python files are code. Both are left out unless the fleet
file names them under `allow:`. A `.bin` is a pickle in most repositories, and is not one in two: the model.bin of
CTranslate2 and the twin of an OpenVINO .xml. They are told by the files beside them and, once here, by their first
bytes, so that a pickle under their name is refused all the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

from ..errors import WeightsError

Kind = Literal["weights", "companion", "pickle", "code", "other"]
DataBin = Literal["", "ctranslate2", "openvino"]

_WEIGHTS = (".safetensors", ".onnx", ".gguf", ".xml")
_EXTERNAL = re.compile(r".*\.onnx(_data(_\d+)?|\.data)")  # tensors that an .onnx keeps in files of their own
_COMPANIONS = (".json", ".jsonl", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".spm", ".yaml", ".yml")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5", ".hdf5", ".keras", ".nemo", ".t7")
_CODE = (".py", ".pyc", ".pyi", ".so", ".dll", ".dylib", ".sh", ".ipynb", ".js", ".jar", ".exe")
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt", "shared_vocabulary.json", "shared_vocabulary.txt",
                 "source_vocabulary.json", "source_vocabulary.txt")  # fmt: skip
_CT2 = re.compile(rb"[\x01-\x63]\0\0\0(.)\0([A-Z][A-Za-z0-9]*)\0", re.DOTALL)  # u32 version, u16 length, name, NUL
_PICKLE = re.compile(rb"PK\x03\x04|\x80[\x02-\x05][\x8a\x95\}\]\(cXq\x8c]", re.DOTALL)  # a torch zip, or protocol 2-5


@dataclass(frozen=True, slots=True)
class Allow:
    """The fleet file's `allow:` of one service: file names or shell patterns, for the whole path or its last part.

    `remote_code` among them stands for every Python file.
    """

    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> Allow:
        return cls(frozenset(names))

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        if path.endswith(".py") and "remote_code" in self.names:
            return True
        last = PurePosixPath(path).name
        return any(fnmatchcase(path, pattern) or fnmatchcase(last, pattern) for pattern in self.names)

    @property
    def remote_code(self) -> bool:
        """Whether Python files are allowed: only then may an engine be told to trust a repository's code."""
        return any(name == "remote_code" or name.endswith(".py") for name in self.names)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out, and what to write to have it."""

    name: str
    size: int  # bytes
    why: str

    @classmethod
    def because(cls, what: Kind, path: str, size: int) -> Skipped:
        return cls(path, size, f"{what}; to have it: `allow: [{PurePosixPath(path).name}]`")


def refuse(source: str, what: Kind, names: list[str]) -> None:
    """Raises WeightsError if a pickle or code is asked for that `allow:` does not name."""
    some = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    allow = f"`allow: [{', '.join(PurePosixPath(name).name for name in names[:3])}]` for this service"
    if what == "pickle":
        raise WeightsError(
            f"weights from {source} in a format that only holds data (safetensors, gguf, onnx, …)",
            f"pickles, which can run any code when they are loaded: {some}",
            f"another repository or revision, or {allow} if you trust its author",
        )
    if what == "code":
        raise WeightsError(f"weights from {source}, not code", some, f"{allow} if you trust its author")


def kind(path: str, siblings: Collection[str]) -> Kind:
    """What a file is by its name and by the names beside it (`siblings`: every path of the same repository)."""
    name = PurePosixPath(path).name
    suffix = PurePosixPath(name).suffix.lower()
    if data_bin(path, siblings):
        return "weights"
    if suffix in _PICKLES:
        return "pickle"
    if suffix in _CODE:
        return "code"
    if suffix in _WEIGHTS or external(name):
        return "weights"
    if suffix in _COMPANIONS or name.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "COPYING")):
        return "companion"
    return "other"


def data_bin(path: str, siblings: Collection[str]) -> DataBin:
    """Whose plain data a .bin is, by the files beside it; empty where it is a pickle or no .bin."""
    name, folder = PurePosixPath(path).name, PurePosixPath(path).parent
    if name.endswith(".bin") and str(folder / f"{name[:-4]}.xml") in siblings:
        return "openvino"
    vocabularies = {str(folder / other) for other in _VOCABULARIES}
    if name == "model.bin" and str(folder / "config.json") in siblings and not vocabularies.isdisjoint(siblings):
        return "ctranslate2"
    return ""


def external(name: str) -> bool:
    """Whether this is a file of tensors that belongs to an .onnx beside it."""
    return _EXTERNAL.fullmatch(name) is not None


def is_ctranslate2(path: Path) -> bool:
    """Whether a file starts as CTranslate2 writes it: a small version number, then a specification's name."""
    match = _CT2.match(_head(path))
    return match is not None and match[1][0] == len(match[2]) + 1


def is_pickle(path: Path) -> bool:
    """Whether a file starts as pickles and torch's zip archives do."""
    return _PICKLE.match(_head(path)) is not None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)
