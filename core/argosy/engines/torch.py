"""PyTorch, of which there is one build for each vendor, all under one name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from .engine import Engine, Seen, log


@dataclass(frozen=True, kw_only=True)
class Torch(Engine):
    name = "torch"
    distributions = ("torch",)
    device: str = "cpu"
    dtype: str = "float32"
    memory_fraction: float | None = None  # of the whole device, for torch's own allocator
    build: str = ""  # the attribute of torch.version that this device needs (None in a build for another vendor)

    def prepare(self) -> Self:
        """Threads, the right build, the device, and the cap of torch's own allocator on it."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        kind, index = self._place
        if kind == "cpu":
            return self
        if why := self._absent(torch, kind, index):
            self.missed(f"torch on {self.device}{f', built for {self.build}' if self.build else ''}", why)
            self.seen.told["device"] = "cpu"
            return dataclasses.replace(self, device="cpu", dtype="float32", memory_fraction=None, build="")
        if self.memory_fraction is not None:
            self._cap(getattr(torch, kind), kind, index, self.memory_fraction)
        return self

    def report(self) -> Seen:
        """With the bytes that torch's own allocator holds on the device: none means that the model is elsewhere."""
        seen = super().report()
        kind, index = self._place
        if kind == "cpu":
            return Seen({"device": "cpu", **seen.told}, seen.elsewhere)
        import torch

        held = int(getattr(torch, kind).memory_allocated(index))
        seen.told |= {"device": self.device, "allocated": f"{held / 2**20:.0f} MiB"}
        if not held:
            seen.elsewhere.append(f"torch on {self.device} was planned, and it holds no tensor there")
        return seen

    @property
    def _place(self) -> tuple[str, int]:
        kind, _, index = self.device.partition(":")
        return kind, int(index or 0)

    def _absent(self, torch: Any, kind: str, index: int) -> str:
        """Why this torch has no such device; empty where it has."""
        version = f"torch {torch.__version__}"
        if self.build and getattr(torch.version, self.build, None) is None:
            return f"{version}, built for {_built_for(torch.version) or 'the processor alone'}"
        module = getattr(torch, kind, None)
        if module is None or not module.is_available():
            return f"{version}, which finds no {kind} device here"
        count = module.device_count()
        return f"{version}, which finds {count} of them" if count <= index else ""

    def _cap(self, module: Any, kind: str, index: int, fraction: float) -> None:
        limit = getattr(module, "set_per_process_memory_fraction", None)
        if limit is None:  # older builds for some devices: the share is kept by others, or only counted
            log.warning("torch.%s of this build cannot cap memory; a share of %s is not enforced", kind, self.device)
            self.seen.told["cap"] = "none in this build"
            return
        limit(fraction, index)
        self.seen.told["cap"] = f"{fraction:.3g} of {self.device}"


def _built_for(version: Any) -> str:
    """What of `torch.version` is set: the vendor's name in torch, and its version."""
    names = [name for name in vars(version) if not name.startswith("_") and name not in ("debug", "git_version")]
    found = {name: getattr(version, name) for name in names}
    return ", ".join(f"{name} {value}" for name, value in found.items() if isinstance(value, str))
