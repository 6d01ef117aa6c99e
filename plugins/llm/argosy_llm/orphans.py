"""Ends vLLM's processes with the replica that started them, be it killed: vLLM 0.32 leaves them where they are then,
and with them what they hold of the device.

vLLM calls this in each of its processes, as a plugin of its own (`vllm.general_plugins`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process, if it is a child, as soon as its parent is gone. Nothing happens in a replica's own process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="argosy-parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
