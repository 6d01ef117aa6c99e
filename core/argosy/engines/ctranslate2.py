"""CTranslate2. It caps no memory, and raises where it cannot have its device."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
from dataclasses import dataclass
from typing import Any, Self

from .engine import Engine


@dataclass(frozen=True, kw_only=True)
class Ctranslate2(Engine):
    name = "ctranslate2"
    distributions = ("ctranslate2",)
    device: str = "cpu"
    device_index: int = 0
    compute_type: str = "default"
    preload: tuple[str, ...] = ()  # shared libraries that must be in the process first, as `distribution:lib.so.12`

    def prepare(self) -> Self:
        self.seen.told["device"] = "cpu" if self.device == "cpu" else f"{self.device}:{self.device_index}"
        if self.device == "cpu":
            return self
        wanted = f"ctranslate2 on {self.device}:{self.device_index}"
        if missing := [why for wish in self.preload if (why := _preload(wish))]:
            fix = "pip install " + " ".join(dict.fromkeys(wish.partition(":")[0] for wish in self.preload))
            self.missed(wanted, "; ".join(missing), fix)
            return self._nearest()
        import ctranslate2

        count = getattr(ctranslate2, f"get_{self.device}_device_count", lambda: 0)()
        if count <= self.device_index:
            self.missed(wanted, f"ctranslate2 {self.version()} finds {count} of them")
            return self._nearest()
        return self

    def loaded(self, model: Any) -> None:
        """A plugin hands over the library's own model (`ctranslate2.models.Whisper`, `Translator`, …), so that the
        proof can say where it is."""
        where = f"{model.device}:{model.device_index[0]}" if model.device != "cpu" else "cpu"
        self.seen.told["device"] = f"{where}, {model.compute_type}"
        if model.device != self.device:
            self.missed(f"ctranslate2 on {self.device}", f"the model is on {where}")

    def _nearest(self) -> Self:
        self.seen.told["device"] = "cpu"
        return dataclasses.replace(self, device="cpu", device_index=0, compute_type="default", preload=())


def _preload(wish: str) -> str:
    """Load a shared library for all that come after it, out of its distribution, or from where the system has it.
    Returns why that failed; empty where it did not."""
    distribution, _, library = wish.partition(":")
    path = library
    try:
        files = importlib.metadata.distribution(distribution).files or []
        path = next((str(file.locate()) for file in files if file.name == library), library)
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"{library} of {distribution} does not load: {error}"
    return ""
