"""A fleet's own folder: its token, its store, its logs, and the note of the cluster it started."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that `argosy up` started on this machine.

    address: of Ray's GCS, `host:port`
    pid: the process that supervises Ray's own; ending it ends the cluster
    environment: what every process of the cluster runs with
    """

    fleet: str
    address: str
    pid: int
    host: str
    port: int
    dashboard: str
    metrics_port: int
    temp: str
    haproxy: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True)
class Home:
    """The folder of one fleet below the user's state folder."""

    path: Path

    @classmethod
    def of(cls, state: Path, fleet: str) -> Home:
        path = state / "fleets" / fleet
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(path)

    @classmethod
    def all(cls, state: Path) -> list[Home]:
        """Every fleet of this user that has a folder here, by name."""
        return [cls(path) for path in sorted((state / "fleets").glob("*")) if path.is_dir()]

    @property
    def fleet(self) -> str:
        return self.path.name

    @property
    def token(self) -> Path:
        """The file with the cluster's token, made on first use, readable by its owner alone."""
        path = self.path / "token"
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_hex(32))
        return path

    @property
    def temp(self) -> Path:
        """Ray's temporary folder, this fleet's alone. Short: HAProxy's sockets lie 70 characters deeper, below a
        folder named by the node's id, and end at 97 bytes."""
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:6]
        base = Path("/tmp")
        if not os.access(base, os.W_OK):
            base = Path(tempfile.gettempdir())
        return base / f"argosy-{os.getuid()}-{digest}"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.path / 'store.db'}"

    @property
    def logs(self) -> Path:
        path = self.path / "logs"
        path.mkdir(exist_ok=True)
        return path

    def note(self, cluster: Cluster) -> None:
        path = self.path / "cluster.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(cluster), indent=1))
        os.replace(fresh, path)

    def cluster(self) -> Cluster | None:
        """The cluster noted here, whether it still runs or not; None when none is noted."""
        try:
            return Cluster(**json.loads((self.path / "cluster.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return None

    def forget(self) -> None:
        (self.path / "cluster.json").unlink(missing_ok=True)
