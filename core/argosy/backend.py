"""Backends: one vendor's adapter each. Policy (placement, failover, choice of engine) is core's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from .engines import Engine


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or the host's CPU.

    memory_bytes: what one process can hope to allocate; None where files cannot tell
    index: counts the node's devices by PCI address; the CPU comes last
    cores: processor cores, for the CPU only
    """

    backend: str
    name: str
    architecture: str
    pci: str | None = None
    integrated: bool = False
    memory_bytes: int | None = None
    index: int = 0
    cores: int = 0
    problems: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Offer:
    """An engine, ready with options, for a share of a device."""

    engine: Engine
    device: Device
    budget: int | None = None  # bytes; None where the device's memory is unknown


@dataclass(frozen=True, kw_only=True)
class Held:
    """Memory that one process holds on a device."""

    pid: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One doctor check that found something."""

    check: str
    symptom: str
    evidence: str
    fix: str
    fatal: bool = True


Enforcement = Literal["enforced", "watched", "counted"]


class Backend(ABC):
    """What core asks of a vendor. Detection opens no vendor context and never raises for absent hardware."""

    name: ClassVar[str]

    @abstractmethod
    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        """This vendor's devices below `root`, in PCI order; empty where there are none."""

    @abstractmethod
    def absent(self, root: Path = Path("/")) -> str:
        """Why `detect` found nothing usable, as one sentence; empty where it did."""

    @abstractmethod
    def environment(self, device: Device) -> Mapping[str, str]:
        """The variables that make this device the only one seen; set before any vendor library is imported."""

    @abstractmethod
    def offers(self, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        """Engines that are installed and work on this device, with options for `budget` bytes and `cores` cores."""

    @abstractmethod
    def held(self, device: Device) -> Sequence[Held]:
        """Who holds memory on the device now; empty where the vendor does not tell."""

    def enforcement(self, device: Device) -> Enforcement:
        """How well a share of this device is kept."""
        return "counted"

    def checks(self, root: Path = Path("/")) -> Sequence[Finding]:
        """What the doctor should say of this vendor here."""
        return ()
