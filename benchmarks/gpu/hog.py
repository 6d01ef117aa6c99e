"""A model that takes memory on request: through torch, whose allocator the share caps, or past it."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

import argosy

CHUNK = 2**25  # bytes


class Wish(BaseModel):
    """`how`: through torch; raw, by a call of the driver's own (on the processor: pages of the system); or not."""

    how: Literal["torch", "raw", "none"] = "none"
    bytes: int = 0


class Answer(BaseModel):
    """`refused` is what the allocator said; empty where it gave the memory."""

    pid: int
    at: float
    refused: str = ""


class Hog(argosy.Model):
    name = "hog"
    task = argosy.Json(request=Wish, response=Answer)
    engines = ("torch",)
    needs_weights = False

    def canary(self) -> Wish:
        return Wish()

    def load(self, weights: Any, engine: Any, device: argosy.Device) -> None:
        import torch

        self.device = torch.device(engine.device)
        self.kept: list[Any] = [torch.ones(2**20, device=self.device)]

    def predict(self, batch: Sequence[Wish]) -> Sequence[Answer]:
        return [Answer(pid=os.getpid(), refused=self._take(wish), at=time.time()) for wish in batch]

    def _take(self, wish: Wish) -> str:
        import torch

        if wish.how == "none":
            return ""
        if wish.how == "raw":
            return self._raw(wish.bytes)
        try:
            self.kept.append(torch.empty(wish.bytes, dtype=torch.uint8, device=self.device))
        except torch.OutOfMemoryError as error:
            return str(error).partition("\n")[0]
        return ""

    def _raw(self, size: int) -> str:
        import torch

        if self.device.type == "cpu":
            pages = mmap.mmap(-1, size)
            self.kept.append(pages)
            while pages.tell() < size:
                pages.write(b"x" * min(CHUNK, size - pages.tell()))
            return ""
        torch.ones(1, device=self.device)  # makes the device's context this thread's
        driver = ctypes.CDLL("libcuda.so.1")
        address = ctypes.c_uint64()
        code = driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        return f"cuMemAlloc returned {code}" if code else ""


@argosy.hookimpl
def argosy_models() -> Sequence[type[argosy.Model]]:
    return [Hog]
