"""The model: what is the same on every engine."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

import argosy
from argosy import tasks


class Options(argosy.Options):
    """max_model_len: tokens of one request, its answer included; no more than the model was made for
    cache_gib: GiB for the tokens of all running requests; left out, 1 on openvino_genai, which takes them as they
    come, and on vllm, which takes them at once, what its share leaves beside the weights
    temperature, top_p, max_tokens: for requests that do not say"""

    max_model_len: int = Field(4096, ge=64)
    cache_gib: int | None = Field(None, ge=1)
    temperature: float = argosy.live(0.7, ge=0, le=2)
    top_p: float = argosy.live(0.95, gt=0, le=1)
    max_tokens: int = argosy.live(512, ge=1)


class Chat(argosy.Model):
    name = "llm"
    task = tasks.chat
    options = Options
    batching = argosy.engine_batches
    features = frozenset({"seed", "presence_penalty", "frequency_penalty", "ignore_eos"})

    config: Options

    @classmethod
    def choose(cls, offers: Sequence[argosy.Offer]) -> Sequence[argosy.Offer]:
        """On accelerators vLLM comes first. On a processor it comes last: on two cores OpenVINO GenAI answers four
        requests at once with 265 tokens a second, and vLLM with 66 (SmolLM2 135M; the first has 4-bit weights)."""
        return sorted(offers, key=lambda offer: offer.device.cores == 0 and offer.engine.name != "vllm")

    def sampling(self, request: tasks.ChatRequest, room: int) -> tuple[int, float, float]:
        """max_tokens, temperature and top_p: the request's, else the service's own; no more tokens than have `room`."""
        wanted = request.max_tokens if request.max_tokens is not None else self.config.max_tokens
        temperature = request.temperature if request.temperature is not None else self.config.temperature
        top_p = request.top_p if request.top_p is not None else self.config.top_p
        return min(wanted, room), temperature, top_p
