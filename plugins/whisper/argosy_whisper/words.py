"""Words out of tokens, each of which may be a part of one, or of a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from argosy import tasks

UNFINISHED = "\ufffd"  # what a decoder makes of a part of a character
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages that do not part words: OpenAI's own list


def words_of(
    tokens: Sequence[int],
    starts: Sequence[float],
    end: float,
    decode: Callable[[Sequence[int]], str],
    language: str,
) -> tuple[tasks.Word, ...]:
    """`starts` are the tokens' seconds, `end` the segment's, which another count may put before the last of them. A
    word begins with a space; its punctuation goes with it. In a language without spaces every character is a word."""
    ends = [max(start, following) for start, following in zip(starts, [*starts[1:], end], strict=True)]
    found: list[tasks.Word] = []
    waiting: list[int] = []
    begun = 0.0
    for token, start, stop in zip(tokens, starts, ends, strict=True):
        begun = begun if waiting else start
        waiting.append(token)
        text = decode(waiting)
        if UNFINISHED in text:
            continue
        joins = found and not text.startswith(" ") and (language not in SPACELESS or not text.strip().isalnum())
        if joins:
            found[-1] = tasks.Word(found[-1].start, stop, found[-1].text + text)
        else:
            found.append(tasks.Word(begun, stop, text))
        waiting = []
    return tuple(found)
