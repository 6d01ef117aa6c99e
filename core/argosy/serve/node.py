"""A machine as a node of a Ray cluster: its devices as Ray's resources, its labels, its switches, and Ray's command."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backend import Device
from ..errors import ClusterError
from . import flags

NODE_LABEL = "argosy.io/node"
BACKEND_LABEL = "argosy.io/backend"
OBJECT_STORE = 100 * 2**20  # bytes; requests travel by HTTP, so Ray's store holds next to nothing
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # what Ray takes for "this machine", whatever address it has


def resource(device: Device) -> str:
    """What Ray calls a device: a resource of its node, of capacity 1, of which a replica takes its share."""
    return f"argosy-device-{device.index}"


def arguments(name: str, devices: Sequence[Device]) -> list[str]:
    """What `ray start` has to be told of a machine: no GPU in Ray's eyes, one resource for each usable device, the
    node's name, and the backends that it has devices of, as `cpu.mock`."""
    usable = [device for device in devices if device.usable]
    backends = ".".join(sorted({device.backend for device in usable})) or "none"
    return [
        "--num-gpus=0",
        f"--resources={json.dumps({resource(device): 1.0 for device in usable})}",
        f"--labels={NODE_LABEL}={name},{BACKEND_LABEL}={backends}",
    ]


@dataclass(frozen=True, kw_only=True)
class Start:
    """How Ray is started here. `address` is the head's, `host:port`; empty on the head itself, which then listens on
    `listen` (empty: where Ray finds the machine's address) and `port`. `more` is handed to `ray start` as it is."""

    name: str
    devices: Sequence[Device]
    address: str = ""
    listen: str = ""
    port: int = 6379
    more: Sequence[str] = ()

    def check(self) -> None:
        """ClusterError for a head that no other node can join."""
        host = self.address.rpartition(":")[0].strip("[]")
        if host in LOOPBACK:
            raise ClusterError(
                "the address of a head that other machines reach",
                f"{self.address}: a cluster that `argosy up` started listens on this machine alone",
                "argosy node --head --listen ADDRESS on the head, then argosy up --address ADDRESS:PORT",
            )

    def command(self) -> list[str]:
        role = [f"--address={self.address}"] if self.address else ["--head", f"--port={self.port}"]
        if self.listen:
            role.append(f"--node-ip-address={self.listen}")
        return [
            *(str(Path(sys.executable).with_name("ray")), "start", *role, "--block"),
            *arguments(self.name, self.devices),
            *(f"--object-store-memory={OBJECT_STORE}", "--disable-usage-stats", "--include-log-monitor=false"),
            *self.more,
        ]

    def bare(self) -> list[str]:
        """What this machine alone decides, for whoever writes the rest of the command: KubeRay, for one."""
        return [*arguments(self.name, self.devices), *self.more]

    def environment(self, environ: Mapping[str, str], temp: Path, *, haproxy: bool) -> dict[str, str]:
        """What Ray's processes get beside what this one has. ClusterError where Ray's authentication is not said: it
        turns it on by itself for some ways of starting and not for others, and without it whoever reaches the head
        runs code there."""
        if environ.get("RAY_AUTH_MODE") not in ("token", "disabled"):
            raise ClusterError(
                "RAY_AUTH_MODE, said on every node",
                environ.get("RAY_AUTH_MODE", "it is not set"),
                "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE, with the same token on every node; "
                "RAY_AUTH_MODE=disabled only where nobody else reaches the network",
            )
        said = {name: value for name, value in environ.items() if name.startswith("RAY_")}
        ours = {**flags.common(), **flags.serve(temp, flags.Ports.free(), haproxy=haproxy)}
        return {**ours, **(flags.LOOPBACK if self.listen in LOOPBACK else {}), **said}
