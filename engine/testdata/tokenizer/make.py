"""Writes token ids as llama.cpp gives them: one JSON array [text, ids as plain text, ids with special tokens] a line.

    pip install llama-cpp-python
    python engine/testdata/tokenizer/make.py SmolLM2-135M-Instruct.Q4_1.gguf > engine/testdata/tokenizer/smollm2.jsonl

With `--fuzz N` the texts are N random ones instead, made of all of Unicode and of the vocabulary's own tokens, after a
line with the tokens that end a generation and a prompt's ids. A folder of such files, NAME.jsonl beside NAME.gguf, is
what BRAISE_TOKEN_FACTS names for engine/tests/tokenizer.rs.
"""

import argparse
import json
import random

import llama_cpp
from llama_cpp import Llama

PROMPT = "Hello, wörld"

SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\x0b", "\x1c", " \n "]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<|im_", "_end|>", "<|", "Ġ", "Ċ", "▁"]
PIECES = [
    "Hello", "world", "the", "don't", "I'LL", "we've", "'s", "'S", "’s", "'", "1", "12", "12345", "3.14", "½", "²", "Ⅷ", "٣", "४५",
    "naïve", "e\u0301", "ñ", "ß", "İ", "ﬁ", "Привет", "नमस्ते", "สวัสดี", "مرحبا", "שלום", "語", "한국어", "こんにちは", "🙂",
    "👩‍👩‍👧‍👦", "🇺🇸", "\u200b", "\u200d", "\ufeff", "\x00", "\x04", "\x7f", "\u00ad", "$", "€", "+=", "__init__", "...", "!!!",
    "?!", "(", "})", "//", "/*", "#", "@x", "\\n", "`", "~", "^", "|", "fn main() {", "    return x;", "<b>", "http://a.b/c?d=e",
    "\ue000", "\ufffd", "\U0010ffff", "𝒳", "𠀀", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 40, " " * 70,
]


def texts():
    yield ""
    singles = SPACES + SPECIAL + PIECES
    yield from singles
    yield from (" " + piece for piece in PIECES)
    rng = random.Random(2)
    for _ in range(200):
        parts = (rng.choice(rng.choice([SPACES, SPECIAL, PIECES, PIECES])) for _ in range(rng.randint(2, 6)))
        yield rng.choice(["", " "]).join(parts)


# First and last characters of what a random text is made of, beside all of Unicode.
BLOCKS = [
    (0x20, 0x7E), (0x20, 0x7E), (0x41, 0x5A), (0x61, 0x7A), (0x30, 0x39), (0x00, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x250, 0x36F),
    (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x1E00, 0x1FFF),
    (0x2000, 0x206F), (0x2070, 0x218F), (0x2190, 0x27BF), (0x3000, 0x30FF), (0x3100, 0x31BF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF), (0xF900, 0xFAFF), (0xFE00, 0xFFFF), (0x10000, 0x1FFFF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x323AF),
]


def character(rng, first=0, last=0x10FFFF):
    while True:
        code = rng.randint(first, last)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def random_part(rng, tokens):
    kind = rng.randrange(10)
    if kind == 0:
        return "".join(character(rng) for _ in range(rng.randint(1, 4)))
    if kind <= 3:
        block = rng.choice(BLOCKS)
        return "".join(character(rng, *block) for _ in range(rng.randint(1, 8)))
    if kind == 4:
        return rng.choice(SPACES + [" ", " ", "\n"]) * rng.choice([1, 1, 1, 2, 3, 9])
    if kind == 5:
        return "".join(rng.choice("0123456789½٣") for _ in range(rng.randint(1, 9)))
    if kind <= 7 and tokens:
        return rng.choice(tokens)
    return rng.choice(SPECIAL + PIECES)


def random_text(rng, tokens):
    parts = [random_part(rng, tokens) for _ in range(rng.choice([1, 2, 3, 5, 8, 13]))]
    return rng.choice(["", "", " "]).join(parts)[:300]


def own_tokens(model):
    """Texts of the vocabulary: every special one, and a sample of the others."""
    special, others = [], []
    for token in range(model.n_vocab()):
        text = model.detokenize([token], special=True).decode(errors="ignore")
        if text:
            (others if model._model.token_get_attr(token) == 4 else special).append(text)
    rng = random.Random(3)
    return special[:500] * 2 + rng.sample(others, min(2000, len(others)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    model = Llama(args.model, vocab_only=True, verbose=False)
    cases = texts()
    if args.fuzz:
        rng, tokens = random.Random(args.seed), own_tokens(model)
        cases = (random_text(rng, tokens) for _ in range(args.fuzz))
        ends = [token for token in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(model._model.vocab, token)]
        prompt = model.tokenize(PROMPT.encode(), add_bos=True, special=True)
        print(json.dumps({"ends": ends, "prompt": prompt}, separators=(",", ":")))
    for text in cases:
        ids = [model.tokenize(text.encode(), add_bos=False, special=special) for special in (False, True)]
        print(json.dumps([text, *ids], separators=(",", ":")))


if __name__ == "__main__":
    main()
