"""Text that tokenizers get wrong, for the checks of this folder: the same on every call."""

import random

FIXED = [
    "",
    " ",
    "  leading, trailing  ",
    "a\n\n\n  b\t\t c \r\n\r\n d\u00a0\u00a0e\u3000f\u2028g\u0085h",
    "It's I'LL we'Ve they'd o'clock 's 'S 'ſ ''s can't've",
    "1 12 123 1234 12345 3.14159 1,000,000 ½ Ⅷ ٣٤٥ 一二三",
    "naïve café e\u0301 ﬁ ẞ İstanbul Ǆ \u0130\u0307",
    "😀😀👨‍👩‍👧‍👦🏳️‍🌈 e😀1😀\n😀",
    "Привет мир, שלום עולם, مرحبا بالعالم, नमस्ते दुनिया, こんにちは世界, 你好世界",
    "<|endoftext|><|reserved_0|> <s></s><unk><0x0A> <|im_start|>",
    "zero\x00byte \x01\x1b[0m \ufeff bom \ufffd \U0010ffff",
    "x" * 3000 + " " * 3000 + "\n" * 3000 + "!" * 3000 + "1" * 3001,
    "ab" * 5000 + "aba" * 5000 + "é" * 5000 + "😀" * 2000,
    " \n" * 2000 + "\t \r\n" * 2000 + "end",
    "the" * 5000 + " the" * 5000 + "ing" * 47 + "tion" * 12,
]
ALPHABETS = [
    "ab",
    "abc '",
    "etaoin shrdlu",
    "THEthe IN in ing's\n",
    " \t\r\n\u00a0x",
    "0123456789 .,a",
    "aeéÉß日本語かなкириллица 😀🎉\u0301\u200d",
    "".join(map(chr, range(256))),
]


def hard_texts(count=600):
    """`FIXED`, then `count` random strings over `ALPHABETS`, most short and some of hundreds of characters."""
    rng = random.Random(5)
    texts = list(FIXED)
    for _ in range(count):
        alphabet = rng.choice(ALPHABETS)
        length = rng.choice([3, 8, 20, 60, 400])
        texts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, length))))
    return texts
