"""What decoder and encoder do to samples alike: clean them, and change their rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import AudioFrame

Samples = NDArray[numpy.float32]
LONGEST = 65_536  # samples in one frame


def clean(samples: NDArray[numpy.floating]) -> Samples:
    """Float samples with NaN made silence, infinities and overshoot clipped to [-1, 1]: one NaN would smear over every
    sample that a resampling filter touches."""
    cleaned: Samples = numpy.clip(numpy.nan_to_num(samples), -1.0, 1.0).astype(numpy.float32, copy=False)
    return cleaned


def frames(samples: Samples, rate: int, start: int) -> Iterator[AudioFrame]:
    """PyAV's form of mono samples, none too long for one block of memory. `start`: where in their stream they begin."""
    import av

    for at in range(0, len(samples), LONGEST):
        piece = numpy.ascontiguousarray(samples[at : at + LONGEST])
        frame = av.AudioFrame.from_ndarray(piece[numpy.newaxis], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start + at, Fraction(1, rate)
        yield frame


class Resampler:
    """A stream of mono samples at one rate, in pieces of any size, to the same stream at another rate."""

    def __init__(self, source: int, target: int) -> None:
        import av

        self.source, self._pushed = source, 0
        self._swr = None if source == target else av.AudioResampler(format="flt", layout="mono", rate=target)

    def push(self, samples: Samples) -> Samples:
        """What can be given out now, possibly nothing: the filter keeps the last few milliseconds back."""
        if self._swr is None:
            return samples
        made = [out for frame in frames(samples, self.source, self._pushed) for out in self._swr.resample(frame)]
        self._pushed += len(samples)
        return _joined(made)

    def flush(self) -> Samples:
        """The rest. The resampler is used up afterwards."""
        if self._swr is None or not self._pushed:
            return numpy.zeros(0, numpy.float32)
        return _joined(self._swr.resample(None))


def _joined(made: list[AudioFrame]) -> Samples:
    if not made:
        return numpy.zeros(0, numpy.float32)
    return clean(numpy.concatenate([frame.to_ndarray().ravel() for frame in made]))
