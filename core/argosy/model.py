"""What a plugin author writes: a model, its options, and how it wants its requests batched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from .errors import PluginError
from .tasks import Task

if TYPE_CHECKING:
    from .backend import Device, Offer
    from .fleet.weights import Weights


class Options(BaseModel):
    """A plugin's options in the fleet file. Unknown names are errors; a change restarts the replica, unless `live`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def live_names(cls) -> frozenset[str]:
        """Names of the options that travel in Ray's user_config and restart nothing."""
        return frozenset(
            name
            for name, info in cls.model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("live")
        )


def live(default: Any, **constraints: Any) -> Any:
    """An option whose change restarts nothing: `temperature: float = live(0.7, ge=0, le=2)`."""
    return Field(default, json_schema_extra={"live": True}, **constraints)


@dataclass(frozen=True)
class Batching:
    """How requests reach a model.

    gather: whatever arrived while the device was busy goes in as one batch of at most `size` items, and a request
            that finds the device idle waits for nobody
    one:    one request at a time, in one worker thread
    engine: the engine batches by itself; requests are handed over as they come, at most `size` at once
    """

    kind: Literal["gather", "one", "engine"]
    size: int


def gather(size: int) -> Batching:
    return Batching("gather", size)


one_by_one = Batching("one", 1)
engine_batches = Batching("engine", 256)


@dataclass
class Context:
    """What a model may know of the request it answers.

    `deadline` is on `time.monotonic()`'s clock; `cancelled` turns true when the client has left or the deadline has
    passed: long loops look at it, and generators are closed by the runtime at their next step.
    """

    id: str
    deadline: float | None = None
    priority: Literal["interactive", "batch"] = "interactive"
    error: str = ""  # the code it was refused with; the door counts by it
    started: float = field(default_factory=time.monotonic)  # when it came in, on the same clock
    _cancelled: bool = field(default=False, repr=False)  # one flag, set once: threads need no more

    @property
    def cancelled(self) -> bool:
        return self._cancelled or (self.deadline is not None and time.monotonic() > self.deadline)

    def cancel(self) -> None:
        self._cancelled = True


@dataclass(frozen=True)
class Implementation:
    """A model on one engine: the class that runs, and the weight formats it reads (empty: any)."""

    engine: str
    formats: tuple[str, ...]
    model: type[Model]


M = TypeVar("M", bound="type[Model]")


class Model:
    """One model of one task. Subclass it, name its engines in order of preference, write `load` and one of
    `predict` (a batch in, one answer per item out) or `generate` (one request in, deltas out).

    The runtime sets `config` (an instance of `options`) before `load`, and again when live options change.
    """

    name: ClassVar[str]
    task: ClassVar[Task[Any, Any]]
    options: ClassVar[type[Options]] = Options
    engines: ClassVar[Sequence[str]] = ()
    weights: ClassVar[Sequence[str]] = ()  # formats that `load` reads; empty: any
    batching: ClassVar[Batching] = one_by_one
    features: ClassVar[frozenset[str]] = frozenset()  # optional parts of the task that this model can do
    about: Mapping[str, str] = MappingProxyType({})  # told wherever the service describes itself; `load` may set it
    needs_weights: ClassVar[bool] = True
    # Seconds that a warm answer to the canary takes on any accelerator, at most: a slower one is not on its device.
    slowest: ClassVar[float | None] = None
    # Makes weights in a format that `load` reads of others: (source folder, empty target folder, options). Once for
    # each content, engine and options; what it made is kept in the weights cache.
    convert: ClassVar[Callable[..., None] | None] = None
    convert_from: ClassVar[Sequence[str]] = ()  # formats that `convert` reads; empty: any
    # Pinned requirements of `convert`, installed apart from what serves: it runs there, in a process of its own, which
    # imports the plugin's module. Empty: `convert` runs in the replica.
    convert_needs: ClassVar[Sequence[str]] = ()

    _implementations: ClassVar[dict[str, Implementation]]

    config: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not any("_implementations" in base.__dict__ for base in cls.__mro__[1:]):
            cls._implementations = {}  # one table per family: the first subclass of Model

    def __init__(self, config: Options | None = None) -> None:
        self.config = config if config is not None else self.options()

    @classmethod
    def on(cls, engine: str, *, weights: Sequence[str] = ()) -> Callable[[M], M]:
        """Register a subclass of this model as the way to run it on `engine`; earlier registrations are preferred."""

        def register(implementation: M) -> M:
            if not issubclass(implementation, cls):
                raise PluginError(
                    f"@{cls.__name__}.on({engine!r}) wants a subclass of {cls.__name__}",
                    repr(implementation),
                    f"class {implementation.__name__}({cls.__name__}): …",
                )
            cls._implementations[engine] = Implementation(engine, tuple(weights), implementation)
            return implementation

        return register

    @classmethod
    def implementations(cls) -> Sequence[Implementation]:
        """Every way to run this model, preferred first."""
        if found := tuple(cls._implementations.values()):
            return found
        return tuple(Implementation(engine, tuple(cls.weights), cls) for engine in cls.engines)

    @classmethod
    def choose(cls, offers: Sequence[Offer]) -> Sequence[Offer]:
        """The plugin's own say: reorder or drop what backends offer for this model."""
        return offers

    @classmethod
    def memory(cls, weights: Weights, options: Options, offer: Offer) -> int | None:
        """Bytes that a replica will hold on the device; None leaves the estimate to core."""
        return None

    def canary(self) -> Any:
        """A request whose answer shows that the model works; None where there is none."""
        return self.task.canary() if self.task.canary else None

    def load(self, weights: Weights, engine: Any, device: Device) -> Any:
        """Once, on the planned device, in the worker thread (or awaited, where it is a coroutine function)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to load")  # pragma: no cover

    def close(self) -> None:
        """Before the process ends."""


def runs(model: type[Model]) -> Literal["predict", "generate"]:
    """Which of the two ways to answer a model class defines. PluginError when it is neither or both."""
    found = [way for way in ("predict", "generate") if callable(getattr(model, way, None))]
    if len(found) != 1:
        raise PluginError(
            f"{model.__module__}.{model.__name__} has to define one of predict(batch) and generate(request, ctx)",
            " and ".join(found) or "neither",
            "argosy new NAME shows both",
        )
    return "predict" if found == ["predict"] else "generate"
