"""From messages to a prompt: what every engine refuses, in the same words."""

from __future__ import annotations

import argosy
from argosy import tasks

CHARACTERS = 64  # per token of the limit: a longer text is refused before it is tokenised
ROLES = {"developer": "system"}  # as chat templates know them


def turns(request: tasks.ChatRequest, limit: int) -> list[dict[str, str]]:
    """The messages as a chat template reads them. BadRequest where no tokeniser could bring them below `limit`."""
    found = [{"role": ROLES.get(turn.role, turn.role), "content": turn.content} for turn in request.messages]
    if (length := sum(len(turn["content"]) for turn in found)) > limit * CHARACTERS:
        raise argosy.BadRequest(
            f"the messages hold {length} characters; this model reads {limit} tokens", param="messages"
        )
    return found


def refused(error: Exception) -> argosy.BadRequest:
    """What to raise where the model's own template refuses the messages."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return argosy.BadRequest(f"the model's chat template refuses these messages: {reason}", param="messages")


def fit(tokens: int, limit: int) -> None:
    """BadRequest where a prompt of so many tokens leaves its answer no room."""
    if tokens >= limit:
        raise argosy.BadRequest(
            f"the messages are {tokens} tokens; this model reads {limit}, its answer included",
            param="messages",
            code="context_length_exceeded",
        )
