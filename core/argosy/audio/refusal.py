"""Why an upload is refused, in one wording for every container."""

from __future__ import annotations

from ..errors import BadRequest, UnsupportedMedia

ACCEPTED = "wav, mp3, flac, ogg (Opus or Vorbis), m4a, webm, aac"
RATES = range(1_000, 768_001)  # Hz. One sample of a "1 Hz" file would become 16,000
CHANNELS = range(1, 65)
SLACK = 0.25  # seconds that may lack: encoder delays, and recorders that count the header as sound
PARAM = "file"


def empty() -> BadRequest:
    return BadRequest(f"the audio file is empty (0 bytes); send one of {ACCEPTED}", param=PARAM, code="empty_audio")


def too_short() -> BadRequest:
    return BadRequest("the audio is a handful of samples; send at least 0.1 s", param=PARAM, code="audio_too_short")


def unsupported(found: str) -> UnsupportedMedia:
    return UnsupportedMedia(f"{found}; send one of {ACCEPTED}", param=PARAM)


def broken(why: str) -> BadRequest:
    return BadRequest(
        f"the audio file is broken or cut off: {why}; upload it again, or check that a player plays it",
        param=PARAM, code="invalid_audio",
    )  # fmt: skip


def cut_off(stated: float, found: float) -> BadRequest:
    """Both in seconds."""
    return BadRequest(
        f"the audio file is cut off: it says {stated:.1f} s, {found:.1f} s are there; upload it again whole, or if "
        "this is all there is, mend its header with `ffmpeg -i IN -c copy OUT`", param=PARAM, code="truncated_audio",
    )  # fmt: skip


def check(rate: int, channels: int) -> None:
    """Raises BadRequest for numbers that no recording has, and that would cost memory out of all proportion."""
    for name, found, allowed in (("sample rate", rate, RATES), ("number of channels", channels, CHANNELS)):
        if found not in allowed:
            raise BadRequest(
                f"the audio's {name} is {found}; allowed: {allowed[0]} to {allowed[-1]}; convert it, for example with "
                "`ffmpeg -i IN -ar 16000 -ac 1 OUT.wav`", param=PARAM, code="invalid_audio",
            )  # fmt: skip
