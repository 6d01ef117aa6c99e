"""Two vendors with three devices, and two models that run on them, as a distribution that a test puts on the path.

Their devices are made up; what Ray and Argosy do with them is not: numbering, resources, masks, turns.
"""

from __future__ import annotations

from pathlib import Path

MODULE = '''
import os, time
from pathlib import Path

import argosy
from argosy.backend import Device
from argosy.engines import Engine
from pydantic import BaseModel

GIB = 2**30


class Phantom(Engine):
    """The one engine of these vendors' devices."""

    name = "phantom"
    distributions = ()

    @classmethod
    def version(cls):
        return "1.0"


class Vendor(argosy.Backend):
    def __init__(self, name, *devices):
        self.name, self._devices = name, devices

    def detect(self, root=Path("/")):
        return [
            Device(backend=self.name, name=f"{self.name.title()} {slot}", architecture=f"{self.name}_1",
                   pci=f"0000:0{slot}:00.0", memory_bytes=8 * GIB, identity=f"{self.name}-{slot}")
            for slot in self._devices
        ]

    def absent(self, root=Path("/")):
        return ""

    def environment(self, device, *, share=1.0, budget=None):
        return {"SEEN_BY_" + self.name.upper(): device.identity}

    def offers(self, device, budget, cores):
        return [Phantom(threads=cores)]

    def held(self, device, pids=()):
        return ()


class Wish(BaseModel):
    mib: int = 0


class Seen(BaseModel):
    pid: int
    masks: dict[str, str]
    began: float
    ended: float


class Options(argosy.Options):
    seconds: float = 0.0


class Slow(argosy.Model):
    """Takes its time to load, and says where it runs; it takes memory when it is asked to."""

    name = "slowly"
    task = argosy.Json(request=Wish, response=Seen)
    engines = ("phantom", "python")
    options = Options
    needs_weights = False

    def load(self, weights, engine, device):
        engine.seen.told["device"] = os.environ.get("SEEN_BY_" + device.backend.upper(), "the processor")
        self.began = time.time()
        time.sleep(self.config.seconds)
        self.ended = time.time()
        self.kept = []

    def canary(self):
        return Wish()

    def predict(self, batch):
        self.kept += [b"x" * (wish.mib << 20) for wish in batch]
        masks = {name: value for name, value in os.environ.items()
                 if name.startswith("SEEN_BY_") or name.split("_")[-1] in ("DEVICES", "MASK") and name[:4] != "RAY_"}
        return [Seen(pid=os.getpid(), masks=masks, began=self.began, ended=self.ended) for _ in batch]


@argosy.hookimpl
def argosy_engines():
    return [Phantom]


@argosy.hookimpl
def argosy_backends():
    return [Vendor("nova", 1, 3), Vendor("orion", 2)]


@argosy.hookimpl
def argosy_models():
    return [Slow]
'''


def install(folder: Path) -> Path:
    """Write the distribution below `folder`, which is to be on PYTHONPATH."""
    (folder / "argosy_vendors.py").write_text(MODULE)
    info = folder / "argosy_vendors-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: argosy-vendors\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[argosy]\nvendors = argosy_vendors\n")
    return folder
