"""Questions about houses, and a cross-encoder that is trained to answer them in seconds.

The passages of a question differ in what they affirm and deny, and of what. Each of the held-out questions is one that
no training saw, though each of its words was.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

NOUNS = (
    "heating", "parking", "laundry", "breakfast", "internet", "cleaning", "storage", "shade", "quiet", "space",
    "light", "privacy", "furniture", "linen", "water", "electricity", "garden", "cellar", "balcony", "lift", "pool",
    "sauna", "fence", "gate",
)  # fmt: skip
ASKS = {True: ("with", "that has", "including"), False: ("without", "that lacks", "excluding")}
SAYS = {True: ("offers", "has", "comes with"), False: ("lacks", "misses", "comes without")}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
QUESTIONS = [(noun, wanted, words) for noun in NOUNS for wanted in (True, False) for words in ASKS[wanted]]
STEPS, GROUPS, RATE = 300, 32, 1e-3
SEED = 5


def candidates(noun: str, wanted: bool, words: str, draw: random.Random) -> tuple[str, list[str]]:
    """A question, and four passages of which the first answers it."""
    other = draw.choice([one for one in NOUNS if one != noun])
    facts = [(wanted, noun), (not wanted, noun), (wanted, other), (not wanted, other)]
    return f"a flat {words} {noun}", [f"it {draw.choice(SAYS[there])} {what}" for there, what in facts]


def split() -> tuple[list[tuple[str, bool, str]], list[tuple[str, list[str]]]]:
    """Questions to train on, and one in four of all with its passages, held out."""
    draw = random.Random(SEED)
    mixed = draw.sample(QUESTIONS, len(QUESTIONS))
    cut = len(mixed) // 4
    return mixed[cut:], [candidates(*question, draw) for question in mixed[:cut]]


def trained(folder: Path) -> None:
    """Train it from scratch and write it as transformers does: two layers of 64, one logit, some 8 s of one core."""
    torch.manual_seed(SEED)
    draw, questions = random.Random(SEED), split()[0]
    words = sorted({word for text in (*ASKS[True], *ASKS[False], *SAYS[True], *SAYS[False]) for word in text.split()})
    vocabulary = {word: place for place, word in enumerate((*SPECIAL, "a", "flat", "it", *words, *NOUNS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.enable_padding()
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=32,
            num_labels=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.99))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small products are slower on two
    for _ in range(STEPS):
        groups = [candidates(*draw.choice(questions), draw) for _ in range(GROUPS)]
        encoded = tokenizer.encode_batch([(query, passage) for query, passages in groups for passage in passages])
        logits = model(
            input_ids=torch.tensor([each.ids for each in encoded]),
            attention_mask=torch.tensor([each.attention_mask for each in encoded]),
            token_type_ids=torch.tensor([each.type_ids for each in encoded]),
        ).logits.view(GROUPS, 4)  # the first of each four is right
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(GROUPS, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
