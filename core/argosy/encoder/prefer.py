"""In which order the engines are tried."""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Offer

# On a processor openvino was the fastest (docs/benchmarks.md), then onnxruntime. An accelerator that offers openvino is
# one that openvino was made for; elsewhere torch goes first, which computes in half precision and takes every length
# as it comes, where onnxruntime runs the graph in the precision it was exported in.
PROCESSOR = ("openvino", "onnxruntime", "torch")
ACCELERATOR = ("openvino", "torch", "onnxruntime")


def preferred(offers: Sequence[Offer]) -> Sequence[Offer]:
    """The offers of one device, best first; engines that are not known here come last, as they stand."""

    def rank(offer: Offer) -> int:
        order = PROCESSOR if offer.device.cores else ACCELERATOR
        return order.index(offer.engine.name) if offer.engine.name in order else len(order)

    return sorted(offers, key=rank)
