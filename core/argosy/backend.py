"""Backends: one vendor's adapter each. Policy (placement, failover, choice of engine) is core's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from .engines import Engine


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or the host's CPU.

    architecture: what engines are built for (`sm_75`, `gfx1151`, `xe2-hpg`); empty where files cannot tell
    integrated: shares the system's memory; its budget and the CPU's are cut from the same
    memory_bytes: what one process can hope to allocate; None where files cannot tell
    index: counts the node's devices by PCI address; the CPU comes last
    cores: processor cores, for the CPU only
    identity: what the vendor's mask calls it: a UUID, or an ordinal in the vendor's own order
    driver: the kernel driver that holds it, with its version where files tell; empty where none does
    problems: what is wrong with it, each as `<check of the doctor>: <what was found>`
    usable: whether a replica can run on it all the same
    """

    backend: str
    name: str
    architecture: str
    pci: str | None = None
    integrated: bool = False
    memory_bytes: int | None = None
    index: int = 0
    cores: int = 0
    identity: str = ""
    driver: str = ""
    problems: tuple[str, ...] = ()
    usable: bool = True


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


@dataclass(frozen=True, kw_only=True)
class ShareServer:
    """A vendor's own server that keeps the shares of devices apart, one for each node.

    start, stop: commands; each returns when it is done
    say: what `stop` is told on its standard input
    environment: what these commands and every process of the node need to find the server
    """

    start: Sequence[str]
    stop: Sequence[str]
    say: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


class Backend(ABC):
    """What core asks of a vendor. Detection opens no vendor context and never raises for absent hardware."""

    name: ClassVar[str]
    recorded: ClassVar[tuple[str, ...]] = ()  # globs below the root of the files that `detect` and `checks` read
    masks: ClassVar[tuple[str, ...]] = ()  # variables by which a process is shown fewer of this vendor's devices
    one_at_a_time: ClassVar[bool] = True  # whether engines that load side by side spoil each other's measurements

    @abstractmethod
    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        """This vendor's devices below `root` in PCI order; empty where there are none. Reads files, imports nothing."""

    def probe(self, devices: Sequence[Device]) -> Sequence[Device]:
        """The same devices with what only the vendor's own library tells (memory, capability), asked in a child
        process, for this one must open no context. What cannot be asked stays unknown; nothing is raised."""
        return devices

    @abstractmethod
    def absent(self, root: Path = Path("/")) -> str:
        """Why `detect` found nothing usable, as one sentence; empty where it did."""

    @abstractmethod
    def environment(self, device: Device, *, share: float = 1.0, budget: int | None = None) -> Mapping[str, str]:
        """The variables that make this device the only one seen, and those that cap `share` of it (`budget` bytes)
        where the vendor can; set before any vendor library is imported."""

    @abstractmethod
    def offers(self, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        """Engines that work on this device, with options for `budget` bytes and `cores` cores, whether they are
        installed here or not: what a node has, it reports itself."""

    def refuses(self, device: Device) -> Mapping[str, str]:
        """Engine -> why it is not offered for this device, for those that one would expect."""
        return {}

    @abstractmethod
    def held(self, device: Device, pids: Collection[int] = ()) -> Sequence[Held]:
        """Who holds memory on the device now: everybody, or `pids` alone where strangers cannot be told; empty where
        the vendor does not tell. An entry of 0 bytes says that the process was looked at and holds nothing."""

    def enforcement(self, device: Device) -> Enforcement:
        """How well a share of this device is kept: `enforced` by the vendor, `watched` by the node's watchdog (which
        needs `held`), or only `counted` by the plan."""
        return "counted"

    def share_server(self, devices: Sequence[Device], folder: Path) -> ShareServer | None:
        """The server that would enforce shares of this vendor's devices on this node, with its files in `folder`; None
        where the vendor has none. `argosy node --mps` starts and stops it; nothing happens here."""
        return None

    def checks(self, root: Path = Path("/")) -> Sequence[Finding]:
        """What the doctor should say of this vendor here."""
        return ()
