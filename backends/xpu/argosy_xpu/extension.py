"""torch on an Arc, with intel-extension-for-pytorch where it is installed beside the torch that it was built for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from argosy import engines, machine


@dataclass(frozen=True, kw_only=True)
class Torch(engines.Torch):
    """The extension reached its end of life with 2.8.0, and torch's own `xpu` device does its work. It replaces
    kernels of torch when it is imported, and cannot be imported beside any other torch than its own."""

    def prepare(self) -> Self:
        if matched():
            import intel_extension_for_pytorch

            self.seen.told["extension"] = f"intel-extension-for-pytorch {intel_extension_for_pytorch.__version__}"
        return super().prepare()


def matched() -> bool:
    """Whether the extension is here, and with it a torch of the same minor version, both built for XPU: what PyPI has
    under these names is built for processors."""
    here = machine.installed("intel-extension-for-pytorch", "torch")
    same = len({tuple(version.split(".")[:2]) for version in here.values()}) == 1
    return len(here) == 2 and same and all("+xpu" in version for version in here.values())
