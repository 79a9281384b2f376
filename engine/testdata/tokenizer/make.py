"""Writes token ids as llama.cpp gives them: one JSON array [text, ids as plain text, ids with special tokens] a line.

    pip install llama-cpp-python
    python engine/testdata/tokenizer/make.py SmolLM2-135M-Instruct.Q4_1.gguf > engine/testdata/tokenizer/smollm2.jsonl
"""

import json
import random
import sys

from llama_cpp import Llama

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


def main():
    model = Llama(sys.argv[1], vocab_only=True, verbose=False)
    for text in texts():
        ids = [model.tokenize(text.encode(), add_bos=False, special=special) for special in (False, True)]
        print(json.dumps([text, *ids], separators=(",", ":")))


if __name__ == "__main__":
    main()
