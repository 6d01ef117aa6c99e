"""Counting what requests read and wrote: tokens, and seconds of sound."""

from __future__ import annotations

from typing import Any

from ..tasks import ChatDelta, ChatResponse, Embeddings, Scores, Sound, TranscriptionRequest, Usage
from .meter import Meter


class Tally:
    """Turns requests, responses and deltas into figures."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def answered(self, request: Any, response: Any) -> None:
        """Count a whole answer."""
        stream = self.stream(request)
        if isinstance(response, ChatResponse):
            stream.usage = response.usage
        elif isinstance(response, Embeddings | Scores):
            stream.usage = Usage(prompt_tokens=response.tokens)
        else:
            stream.see(response)
        stream.end()

    def stream(self, request: Any) -> Stream:
        return Stream(self._meter, request)


class Stream:
    """Counts one answer as it comes. One that broke off before it told its usage counts by its deltas."""

    def __init__(self, meter: Meter, request: Any) -> None:
        self._meter, self._request = meter, request
        self._tokens, self._seconds = 0, 0.0
        self.usage: Usage | None = None

    def see(self, delta: Any) -> None:
        if isinstance(delta, ChatDelta):
            self._tokens += delta.tokens
            self.usage = delta.usage or self.usage
        elif isinstance(delta, Sound):
            self._seconds += len(delta.samples) / delta.rate

    def end(self) -> None:
        usage = self.usage or Usage(completion_tokens=self._tokens)
        heard = self._request.seconds if isinstance(self._request, TranscriptionRequest) else 0.0
        for name, direction, value in (
            ("argosy_tokens_total", "in", usage.prompt_tokens),
            ("argosy_tokens_total", "out", usage.completion_tokens),
            ("argosy_audio_seconds_total", "in", heard),
            ("argosy_audio_seconds_total", "out", self._seconds),
        ):
            if value:
                self._meter.add(name, value, direction=direction)
