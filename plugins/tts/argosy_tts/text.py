"""A text in pieces that are spoken one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator

BLOCK = 400  # characters that are spoken at once: a graph's memory grows with the square of a sentence
SENTENCE = r"[.!?…。！？]+[\"'”’)\]]*\s+|\n"
ENDS = (SENTENCE, r"[,;:–—、，；：]\s*", r"\s+")  # where a text is best cut, best first


def blocks(text: str, size: int = BLOCK) -> Iterator[str]:
    """Pieces of at most `size` characters, cut at the end of a sentence, else of a clause, else of a word."""
    while len(text) > size:
        cuts = ([end.end() for end in re.finditer(ends, text[:size])] for ends in ENDS)
        cut = next((found[-1] for found in cuts if found), size)
        yield text[:cut]
        text = text[cut:]
    yield text


def sentences(text: str, size: int = BLOCK) -> Iterator[str]:
    """Each sentence by itself, in blocks where it is longer than `size`; what holds no letter and no digit is left
    out."""
    start = 0
    for end in [*(found.end() for found in re.finditer(SENTENCE, text)), len(text)]:
        yield from (block for block in blocks(text[start:end], size) if any(map(str.isalnum, block)))
        start = end
