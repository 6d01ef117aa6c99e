"""What OpenVINO tells of Intel's GPUs, asked in a process of its own: it opens each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 60.0


def ask() -> dict[str, int]:
    """PCI address -> bytes of memory; empty where OpenVINO is not installed, finds no GPU, or takes too long."""
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True, start_new_session=True)
        return parsed(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def parsed(reply: list[dict[str, Any]]) -> dict[str, int]:
    """From what OpenVINO says: `pci` as {'domain': 0, 'bus': 3, 'device': 0, 'function': 0}, `memory` in bytes."""
    return {
        "{domain:04x}:{bus:02x}:{device:02x}.{function:x}".format(**one["pci"]): int(one["memory"])
        for one in reply
        if int(one["memory"]) > 0
    }


def main() -> None:
    import openvino

    core = openvino.Core()
    found = []
    for name in core.available_devices:
        if not name.startswith("GPU"):
            continue
        place = core.get_property(name, "DEVICE_PCI_INFO")
        parts = ("domain", "bus", "device", "function")
        if not isinstance(place, dict):
            place = {part: getattr(place, part) for part in parts}
        found.append({"pci": place, "memory": int(core.get_property(name, "GPU_DEVICE_TOTAL_MEM_SIZE"))})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
