"""What is sent: the same seeded texts to the endpoint and to the bare engine."""

from __future__ import annotations

import random
import re

WORDS = re.findall(
    r"\w+",
    """
    river stone window garden morning letter winter bridge market doctor table paper music silver teacher
    engine forest island kitchen ladder mirror number ocean pencil question road summer ticket village water
    yellow anchor basket candle desert evening farmer glass harbour iron jacket key lantern mountain north
    orange picture quiet rain school train under valley wheel young zebra apple button corner dinner eagle
    flower
    """,
)

PARAGRAPH = (
    "The harbour wakes before the town does. Small boats leave in the dark, one after another, and their lamps draw "
    "a crooked line across the water. By the time the baker opens her door the first of them is already on its way "
    "back. Gulls follow it in, loud and hopeful, and the men on the pier stop talking to watch. Nobody counts the "
    "boxes until the last rope is tied. Then the scales come out, the prices are called, and for half an hour the "
    "whole street smells of salt and diesel. At nine the market closes. The boats are washed, the nets are hung up "
    "to dry, and the town goes back to being an ordinary place with a school, a bank, and a road that leads "
    "somewhere else. In the evening it begins again, with someone looking at the sky and asking what the wind will "
    "do."
)
SENTENCE = "The train to the coast leaves from platform four at a quarter past nine."


def sentences(count: int, tokens: int, seed: int = 1) -> list[str]:
    """Texts of about `tokens` MiniLM tokens, no two alike: each of the words is one token, and two frame a text."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choice(WORDS) for _ in range(max(1, tokens - 3 + draw.randint(-2, 2)))) + "."
        for _ in range(count)
    ]


def prompts(count: int, seed: int = 1) -> list[str]:
    """Questions of about 60 tokens each with the chat template around them, that differ from their first word on."""
    draw = random.Random(seed)

    def prompt() -> str:
        one, two, three, a, b, place, evening = (draw.choice(WORDS) for _ in range(7))
        return (
            f"{one.capitalize()} {two}, {three}: write a short story in which a {a} and a {b} meet near the {place}, "
            f"on a quiet {evening} evening."
        )

    return [prompt() for _ in range(count)]
