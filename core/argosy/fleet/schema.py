"""The fleet file, version 1: what an owner writes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS["TIB"] = 2**40
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(value: object) -> object:
    """Bytes from `4GiB`, `500 MB` or a plain number of bytes. ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("allowed: a size such as 4GiB or 500MB")
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError("allowed: a size such as 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Size = Annotated[
    int, BeforeValidator(parse_size, json_schema_input_type=str | int), Field(gt=0, description="bytes: 4GiB, 500MB")
]
Share = Annotated[float, Field(gt=0, le=1, description="fraction of a device, which is also its memory budget")]
NAME_WORDS = "up to 40 lower case letters, digits and dashes, the first a letter"
Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", description=NAME_WORDS)]
RESERVED = frozenset({"v1", "v2", "health", "fleet", "docs", "metrics", "openai", "-"})


def _route(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name} is a route of the endpoint itself: name the service otherwise")
    return name


Route = Annotated[Name, AfterValidator(_route)]
Source = Annotated[str, Field(description="wheel://, hf://owner/name@revision, file://, https://…#sha256=…, s3://")]
Weights = Annotated[
    Source | dict[str, Source | list[Source]],
    Field(description="one source, or file names with where each comes from; a list is joined in order"),
]
Wish = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_]*(:[0-9]+)?$", description="a backend (`cpu`), or one device of it (`cpu:0`)")
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variant(Strict):
    """One way to run a service. What is left out is taken from the service."""

    model: Weights | None = None
    engine: str | None = Field(None, description="only this engine")
    device: Wish | list[Wish] | None = Field(None, description="only these devices, in order of preference")
    node: str | None = Field(None, description="only this node")
    share: Share | None = None
    memory: Size | None = Field(None, description="instead of a share: bytes of the device")
    cores: int | None = Field(None, ge=1, le=1024, description="processor cores the replica may use")
    options: dict[str, Any] | None = Field(None, description="the plugin's own options")
    engine_options: dict[str, Any] | None = Field(None, description="handed to the engine as they are")

    @model_validator(mode="after")
    def _one_measure(self) -> Variant:
        if self.share is not None and self.memory is not None:
            raise ValueError("share or memory, not both: a share is a memory budget")
        return self


class Service(Variant):
    """One model answering under one route: `/<name of the service>`."""

    plugin: str = Field(description="a model that `argosy plugins` lists")
    replicas: int = Field(1, ge=1, le=64)
    queue: int = Field(256, ge=0, le=100_000, description="requests that may wait for one replica")
    timeout: float = Field(300.0, gt=0, le=86_400, description="seconds from the first byte in to the last byte out")
    start_timeout: float = Field(900.0, gt=0, le=86_400, description="seconds a replica may take to become Ready")
    body: Size = Field(32 * 2**20, description="bytes of one request's body")
    depth: int = Field(64, ge=1, le=1000, description="levels of nested JSON in a request")
    fallback: Literal["refuse", "degrade"] = Field("refuse", description="when a replica cannot prove its device")
    allow: list[str] = Field(default_factory=list, description="pickle files by name, or remote_code")
    variants: list[Variant] = Field(default_factory=list, description="ways to run it, preferred first")

    def ways(self) -> list[Variant]:
        """The variants, each completed from the service; the service itself where none is listed."""
        names = set(Variant.model_fields)
        base = {name: value for name, value in self if name in names}
        ways = []
        for variant in self.variants or [Variant()]:
            mine = {name: value for name, value in variant if value is not None}
            if mine.keys() & {"share", "memory"}:  # a variant's own measure replaces the service's
                merged = {**base, "share": None, "memory": None, **mine}
            else:
                merged = {**base, **mine}
            ways.append(Variant.model_construct(**merged))
        return ways


class DeviceSpec(Strict):
    """A device of a node, where detection does not fill it in."""

    backend: str
    name: str = ""
    architecture: str = ""
    memory: Size | None = None


class Node(Strict):
    devices: list[DeviceSpec] = Field(default_factory=list)


class Endpoint(Strict):
    host: Literal["127.0.0.1", "0.0.0.0"] = Field("127.0.0.1", description="this machine alone, or every interface")
    port: int = Field(8000, ge=1, le=65535)


class Cache(Strict):
    path: str = Field("", description="folder of the weights cache; empty: the user's cache folder")
    offline: bool = Field(False, description="never download: what is missing is an error")


class Fleet(Strict):
    """Services, and the nodes and devices they may run on."""

    version: Literal[1] = Field(description="the version of this format")
    name: Name = "default"
    endpoint: Endpoint = Endpoint()
    nodes: dict[Name, Node] = Field(default_factory=dict, description="optional on one machine: detected")
    services: dict[Route, Service] = Field(min_length=1)
    weights: Cache = Cache()
    logs: Literal["text", "json"] = "text"
    dashboard: bool = Field(True, description="Ray's dashboard, on loopback, behind its token")
    broken_plugins: Literal["report", "refuse"] = Field("report", description="when an unused plugin cannot be loaded")
    store: str = Field("", description="URL of the store; empty: SQLite in the fleet's own folder")
