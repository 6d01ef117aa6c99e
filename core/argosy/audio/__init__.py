"""Audio in and out: any upload to samples, samples to any format that the speech route answers with.

Inside Argosy sound is a mono numpy array of shape (samples,), float32 in [-1, 1], and a rate in Hz. PyAV is imported
by the first call that needs it, so that importing this package costs nothing where no audio is served.
"""

from .decoder import MAX_SECONDS, decode
from .encoder import FORMATS, PCM_RATE, Encoder, encode
from .refusal import ACCEPTED

__all__ = ["ACCEPTED", "FORMATS", "MAX_SECONDS", "PCM_RATE", "Encoder", "decode", "encode"]
