"""A backend whose devices are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..backend import Backend, Device, Enforcement, Finding, Held
from ..engines import Engine, Python

GIB = 2**30


class MockBackend(Backend):
    """Devices of the given memory (bytes, None where it is unknown), each with an engine of every given type.

    They are those of the machine at `/`; below any other root there are none. A device can be filled by a stranger,
    and can vanish and come back.
    """

    def __init__(
        self,
        name: str = "mock",
        memory: Sequence[int | None] = (8 * GIB,),
        engines: Sequence[type[Engine]] = (Python,),
        enforcement: Enforcement = "counted",
        tells: bool = False,
    ) -> None:
        """`tells`: say of a process that is asked for and holds nothing that it does, as vendors do who know who holds
        what; else nothing is said until `fill`."""
        self.name = name  # type: ignore[misc]  # one class stands for any vendor
        self._engines, self._enforcement, self._tells = tuple(engines), enforcement, tells
        self._devices = [
            Device(
                backend=name,
                name=f"{name} {index}",
                architecture="mock",
                pci=f"0000:{index + 1:02x}:00.0",
                memory_bytes=size,
                index=index,
            )
            for index, size in enumerate(memory)
        ]
        self._gone: dict[int, str] = {}
        self._held: dict[int, list[Held]] = {}

    def vanish(self, index: int = 0, problem: str = "") -> None:
        """Take a device away; with a `problem` it is still seen, but not usable."""
        self._gone[index] = problem

    def come_back(self, index: int = 0) -> None:
        self._gone.pop(index, None)

    def fill(self, size: int, index: int = 0, pid: int = 1) -> None:
        """Let process `pid` hold `size` more bytes of a device."""
        self._held.setdefault(index, []).append(Held(pid=pid, bytes=size))

    def drain(self, index: int = 0) -> None:
        """Let nobody hold anything of a device."""
        self._held.pop(index, None)

    def detect(self, root: Path = Path("/")) -> Sequence[Device]:
        if root != Path("/"):
            return ()
        seen = []
        for device in self._devices:
            if device.index not in self._gone:
                seen.append(device)
            elif problem := self._gone[device.index]:
                seen.append(dataclasses.replace(device, problems=(problem,), usable=False))
        return tuple(seen)

    def absent(self, root: Path = Path("/")) -> str:
        found = self.detect(root)
        if any(device.usable for device in found):
            return ""
        return "; ".join(problem for device in found for problem in device.problems) or f"no mock device below {root}"

    def environment(self, device: Device, *, share: float = 1.0, budget: int | None = None) -> Mapping[str, str]:
        return {"ARGOSY_MOCK_VISIBLE_DEVICES": str(device.index)}

    def offers(self, device: Device, budget: int | None, cores: int) -> Sequence[Engine]:
        return tuple(engine(threads=cores) for engine in self._engines)

    def held(self, device: Device, pids: Collection[int] = ()) -> Sequence[Held]:
        held = tuple(self._held.get(device.index, ()))
        if not self._tells:
            return held
        named = {one.pid for one in held}
        return (*held, *(Held(pid=pid, bytes=0) for pid in pids if pid not in named))

    def enforcement(self, device: Device) -> Enforcement:
        return self._enforcement

    def checks(self, root: Path = Path("/")) -> Sequence[Finding]:
        found = [(device, *problem.partition(": ")) for device in self.detect(root) for problem in device.problems]
        return tuple(
            Finding(check=check, symptom=f"{device.name} is not used", evidence=what, fix="backend.come_back()")
            for device, check, _, what in found
        )
