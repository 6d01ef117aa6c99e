"""What decoder and encoder do to samples alike: clean them, and change their rate."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import AudioFrame

Samples = NDArray[numpy.float32]


def clean(samples: NDArray[numpy.floating]) -> Samples:
    """Float samples with NaN made silence, infinities and overshoot clipped to [-1, 1]: one NaN would smear over every
    sample that a resampling filter touches."""
    cleaned: Samples = numpy.clip(numpy.nan_to_num(samples), -1.0, 1.0).astype(numpy.float32, copy=False)
    return cleaned


def frame(samples: Samples, rate: int, start: int = 0) -> AudioFrame:
    """PyAV's form of mono samples. `start` is the position of the first one in its stream."""
    import av

    made = av.AudioFrame.from_ndarray(numpy.ascontiguousarray(samples)[numpy.newaxis], format="flt", layout="mono")
    made.sample_rate, made.pts, made.time_base = rate, start, Fraction(1, rate)
    return made


class Resampler:
    """A stream of mono samples at one rate, in pieces of any size, to the same stream at another rate."""

    def __init__(self, source: int, target: int) -> None:
        import av

        self.source, self._pushed = source, 0
        self._swr = None if source == target else av.AudioResampler(format="flt", layout="mono", rate=target)

    def push(self, samples: Samples) -> Samples:
        """What can be given out now, possibly nothing: the filter keeps the last few milliseconds back."""
        if self._swr is None or not len(samples):
            return samples
        made = self._swr.resample(frame(samples, self.source, self._pushed))
        self._pushed += len(samples)
        return _joined(made)

    def flush(self) -> Samples:
        """The rest. The resampler is used up afterwards."""
        if self._swr is None or not self._pushed:
            return numpy.zeros(0, numpy.float32)
        return _joined(self._swr.resample(None))


def _joined(frames: list[AudioFrame]) -> Samples:
    if not frames:
        return numpy.zeros(0, numpy.float32)
    return clean(numpy.concatenate([made.to_ndarray().ravel() for made in frames]))
