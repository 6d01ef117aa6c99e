"""What is said to the fleet: plain words, their sound in files of every kind, and how many of the words were missed."""

from __future__ import annotations

import io
import itertools
import re
from fractions import Fraction
from types import MappingProxyType

import av
import httpx
import numpy

from argosy import audio, tasks
from argosy.audio.samples import Samples

# Words that are spelt alike in British and American English, and no names.
PARAGRAPH = (
    "It was a quiet morning in the village. The farmer opened the gate, and his two dogs ran down the road to the "
    "river. There was snow on the mountains, but the sun was warm, and the children were playing in front of the "
    "school. Later that day a man came from the city with a letter. He said that the train would be late, and that "
    "nobody should wait for him."
)
STORY = (
    "The old house stood on a hill above the sea. Every evening a woman climbed the stairs, cleaned the glass, and lit "
    "the lamp. The people in the boats could see the light and find their way home. When the storm came in the winter, "
    "nobody slept. The wind was loud and the waves were high, but the light never went out."
)

# name: (container, codec, samples per second, channels): odd rates, one and two channels
FILES = MappingProxyType(
    {
        "wav": ("wav", "pcm_s16le", 50_000, "stereo"),
        "mp3": ("mp3", "libmp3lame", 22_050, "stereo"),
        "flac": ("flac", "flac", 37_800, "mono"),
        "ogg": ("ogg", "libopus", 24_000, "stereo"),
        "m4a": ("ipod", "aac", 32_000, "stereo"),
        "webm": ("webm", "libopus", 48_000, "mono"),
    }
)


def speak(client: httpx.Client, text: str) -> Samples:
    """A text in the voice of /tts; (samples,) float32 at the rate of the transcription task."""
    sound = client.post("/tts", json={"text": text})
    assert sound.status_code == 200, sound.text
    return audio.decode(sound.content, rate=tasks.TRANSCRIPTION_RATE)


def file_of(samples: Samples, name: str) -> bytes:
    """`samples` as another program would save them: FILES says how."""
    container, codec, rate, layout = FILES[name]
    frame = av.AudioFrame.from_ndarray(samples[numpy.newaxis], format="flt", layout="mono")
    frame.sample_rate, frame.pts = tasks.TRANSCRIPTION_RATE, 0
    frame.time_base = Fraction(1, tasks.TRANSCRIPTION_RATE)
    made = io.BytesIO()
    with av.open(made, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate)
        pieces = itertools.chain(resampler.resample(frame), resampler.resample(None))
        for packet in itertools.chain.from_iterable(stream.encode(piece) for piece in (*pieces, None)):
            file.mux(packet)
    return made.getvalue()


def wav_of(samples: Samples) -> bytes:
    return audio.encode(samples, "wav", tasks.TRANSCRIPTION_RATE)


def words(text: str) -> list[str]:
    """Without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def word_errors(heard: str, said: str) -> float:
    """Words wrong, missing and too many, as a fraction of the words said."""
    found, wanted = words(heard), words(said)
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        above, row = row, [number]
        for place, other in enumerate(found, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != other)))
    return row[-1] / len(wanted)
