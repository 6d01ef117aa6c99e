"""Chat on OpenVINO GenAI."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import argosy
from argosy import tasks

from .chat import Chat, Options
from .prompt import fit, refused, turns
from .steps import Stepper, Stream

if TYPE_CHECKING:
    from argosy.engines import OpenvinoGenai
    from argosy.fleet.weights import Weights

CACHE_GIB = 1  # where the options do not say


@Chat.on("openvino_genai", weights=("openvino", "gguf"))
class OnOpenvino(Chat):
    """Continuous batching; template and tokenizer come out of the weights.

    Answers depend a little on what else is in the batch: the engine rounds differently for one row and for many.
    Where a greedy answer has to be the same in any company, at half the speed, give the engine options
    DYNAMIC_QUANTIZATION_GROUP_SIZE: 0, INFERENCE_PRECISION_HINT: f32 and KV_CACHE_PRECISION: f16. A seed repeats a
    sampled answer where the request is alone.
    """

    @classmethod
    def memory(cls, weights: Weights, options: argosy.Options, offer: argosy.Offer) -> int | None:
        """Weights and their reordered copy, the cache, and a quarter GiB for what is computed in between."""
        assert isinstance(options, Options)
        return 2 * weights.bytes + (options.cache_gib or CACHE_GIB) * 1024**3 + 1024**3 // 4

    def load(self, weights: Weights, engine: OpenvinoGenai, device: argosy.Device) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = self.config.cache_gib or CACHE_GIB
        model = weights.path if "openvino" in weights.formats else weights.one(".gguf")
        pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, engine.device, engine.settings())
        self.tokenizer = pipeline.get_tokenizer()
        self.stepper = Stepper(pipeline, self.tokenizer)
        self.about = {"max_model_len": f"{self.config.max_model_len} tokens, question and answer"}

    async def generate(self, request: tasks.ChatRequest, ctx: argosy.Context) -> AsyncIterator[tasks.ChatDelta]:
        prompt = self._prompt(request)
        room = self.config.max_model_len - prompt.get_size()
        stream = Stream(prompt, self._sampling(request, room), request.stop)
        self.stepper.add(stream)
        try:
            delta = tasks.ChatDelta()
            while delta.finish is None:
                delta = await stream.get()
                yield delta
        finally:
            stream.left = True  # its slot is free before the next step

    def _prompt(self, request: tasks.ChatRequest) -> Any:
        """(1, tokens) int64. BadRequest where the answer would have no room, or the template wants other roles."""
        import openvino

        limit = self.config.max_model_len
        given = turns(request, limit)
        try:
            text = self.tokenizer.apply_chat_template(given, True)
        except RuntimeError as error:
            raise refused(error) from error
        ids = self.tokenizer.encode(text, add_special_tokens=False).input_ids
        fit(ids.get_size(), limit)
        return openvino.Tensor(ids.data.copy())

    def _sampling(self, request: tasks.ChatRequest, room: int) -> Any:
        import openvino_genai

        tokens, temperature, top_p = self.sampling(request, room)
        config = openvino_genai.GenerationConfig(
            max_new_tokens=tokens, ignore_eos=request.ignore_eos, apply_chat_template=False
        )
        config.set_eos_token_id(self.tokenizer.get_eos_token_id())
        if temperature > 0:
            config.do_sample = True
            config.temperature = temperature
            config.top_p = top_p
            config.rng_seed = request.seed if request.seed is not None else secrets.randbits(32)
        config.presence_penalty = request.presence_penalty or 0.0
        config.frequency_penalty = request.frequency_penalty or 0.0
        return config

    def close(self) -> None:
        self.stepper.close()
