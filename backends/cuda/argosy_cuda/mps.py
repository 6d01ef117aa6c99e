"""Whether NVIDIA's MPS enforces shares here."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path


def listens() -> bool:
    """Whether an MPS daemon answers where CUDA itself looks for one. One that was killed leaves its socket behind, so
    it is knocked at, which its log notes as a client without credentials."""
    place = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control"
    try:
        kind = place.stat().st_mode
        if stat.S_ISFIFO(kind):
            os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))  # refused where nobody reads
            return True
        with socket.socket(socket.AF_UNIX) as door:
            door.setblocking(False)
            door.connect(str(place))
    except BlockingIOError:
        return True  # it has more to do than it can take
    except OSError:
        return False
    return True
