"""Chat on vLLM."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import argosy
from argosy import tasks
from argosy.errors import ModelFailed

from .chat import Chat, Options
from .checkpoint import Checkpoint
from .prompt import fit, refused, turns

if TYPE_CHECKING:
    from argosy.engines import Vllm
    from argosy.fleet.weights import Weights

log = logging.getLogger(__name__)

# Beside weights and cache, in bytes: the context of an accelerator, 0.3 to 0.5 GiB, which backends have taken off the
# fraction that they give, and what is computed in between, with recorded graphs. On a processor two Python processes
# with torch take as much: 1.25 GiB with a model of 1 MB.
CONTEXT, BETWEEN = 1024**3 // 2, 1024**3

GRACE = 1.0  # seconds between the engine's end and the replica's, in which its requests are answered

FINISH: dict[str, tasks.Finish] = {"length": "length", "abort": "cancelled"}  # whatever else is a stop


@Chat.on("vllm", weights=("safetensors", "awq", "gptq"))
class OnVllm(Chat):
    """Continuous batching in processes of vLLM's own, on whatever it was built for; the template is the tokenizer's.

    Answers depend a little on what else is in the batch, as kernels round differently for one row and for many.
    """

    ending = False  # the engine has died, and this process is about to

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        """Tensors, cache, and what vLLM takes beside them."""
        assert isinstance(options, Options)
        engine, found = cast("Vllm", offer.engine), Checkpoint.of(weights)
        cache = _cache(found, options, engine, offer.device)
        return found.tensors // engine.tensor_parallel + cache + CONTEXT + BETWEEN

    def load(self, weights: Weights, engine: Vllm, device: argosy.Device) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        found = Checkpoint.of(weights)
        self.limit = found.fits(self.config.max_model_len)
        engine = dataclasses.replace(engine, kv_cache_bytes=_cache(found, self.config, engine, device) or None)
        mine = {"model": str(weights.path), "max_model_len": self.limit, "disable_log_stats": True}
        self.llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**{**mine, **engine.arguments()}))
        self.tokenizer: Any = self.llm.get_tokenizer()
        self.about = {"max_model_len": f"{self.limit} tokens, question and answer"}

    async def generate(self, request: tasks.ChatRequest, ctx: argosy.Context) -> AsyncIterator[tasks.ChatDelta]:
        from vllm.exceptions import VLLMClientError, VLLMServerError

        prompt = await asyncio.to_thread(self._prompt, request)
        count = told = 0
        try:
            settings = self._settings(request, self.limit - len(prompt))
            # Closed, and with it the request is aborted, at once where the client leaves.
            async with aclosing(self.llm.generate({"prompt_token_ids": prompt}, settings, ctx.id)) as steps:
                async for step in steps:
                    piece = step.outputs[0]
                    count += len(piece.token_ids)
                    if piece.finish_reason == "error":
                        raise ModelFailed("the engine failed while it answered")
                    if piece.finish_reason:
                        usage = tasks.Usage(len(prompt), count)
                        yield tasks.ChatDelta(piece.text, FINISH.get(piece.finish_reason, "stop"), usage, count - told)
                    elif piece.text:  # empty while a character or a stop string is half here
                        yield tasks.ChatDelta(piece.text, tokens=count - told)
                        told = count
        except VLLMClientError as error:
            raise argosy.BadRequest(f"the engine refuses this request: {error}") from error
        except VLLMServerError as error:
            if self.llm.errored:
                self._give_up()
            raise ModelFailed("the engine failed while it answered") from error

    def _prompt(self, request: tasks.ChatRequest) -> list[int]:
        """Token ids. BadRequest where the answer would have no room, or the template wants other roles."""
        from jinja2 import TemplateError

        given = turns(request, self.limit)
        try:
            text = self.tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:  # the last where there is no template at all
            raise refused(error) from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        fit(len(ids), self.limit)
        return ids

    def _settings(self, request: tasks.ChatRequest, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        tokens, temperature, top_p = self.sampling(request, room)
        return SamplingParams(
            max_tokens=tokens,
            temperature=temperature,
            top_p=top_p,
            seed=request.seed,
            stop=[text for text in request.stop if text],
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            ignore_eos=request.ignore_eos,
            output_kind=RequestOutputKind.DELTA,
        )

    def _give_up(self) -> None:
        """vLLM's engine does not come back, and a replica without it would refuse for ever: whoever runs this process
        is to start another, as soon as those who wait have been told."""
        if not self.ending:
            self.ending = True
            log.critical("vLLM's engine has died, and this replica ends with it")
            asyncio.get_running_loop().call_later(GRACE, os.kill, os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        self.llm.shutdown()
        del self.llm  # it would shut down once more when the interpreter has half gone


def _cache(found: Checkpoint, options: Options, engine: Vllm, device: argosy.Device) -> int:
    """Bytes of one device for the tokens of all running requests: the owner's word; else what the budget leaves beside
    tensors and computing, and one request of full length at the least; else the backend's word. 0 leaves it to vLLM.

    vLLM would find it out by itself, but what it measures as free depends on who else loads or computes there.
    """
    if options.cache_gib:
        return options.cache_gib * 1024**3
    least = (found.per_token or 0) * found.fits(options.max_model_len) // engine.tensor_parallel
    if engine.memory_fraction is None or device.memory_bytes is None:
        return engine.kv_cache_bytes or least
    budget = int(engine.memory_fraction * device.memory_bytes)
    return max(budget - found.tensors // engine.tensor_parallel - BETWEEN, least)
