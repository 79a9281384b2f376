"""Logits and embeddings of llama.cpp for the tiny models of this folder.

    pip install llama-cpp-python numpy
    BRAISE_WRITE_FAMILIES=models cargo test -p braise-tests --test families -- writes_the_models
    python reference.py models

For each models/NAME.gguf it writes NAME.logits beside this script: of the tokens KEPT, all logits, as little-endian f32. Of a model
whose recipe has a `pooling_type` it keeps the embeddings of all tokens as one text instead, of length 1: the mean, that of
the first token, and that of the last.
The key/value cache is in f32, and attention is not fused, so that the logits are as exact as llama.cpp computes.
"""

import ctypes
import pathlib
import sys

import llama_cpp as llama
import numpy as np

KEPT = [0, 40, 64, 95]
# past the window of real models
LONG = {"llama4-long": [0, 8191, 8192, 8299]}


@llama.llama_log_callback
def quiet(_level, _text, _data):
    pass


def load(path):
    model_params = llama.llama_model_default_params()
    model_params.use_extra_bufts = False  # no repacked weights
    model = llama.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise RuntimeError(f"{path}: not loaded")
    return model


def begin(model, pooling=None, n_tokens=KEPT[-1] + 1):
    params = llama.llama_context_default_params()
    params.n_ubatch = 256
    params.n_ctx = params.n_batch = max(n_tokens, 256)
    params.flash_attn_type = 0
    params.type_k = params.type_v = 0  # f32
    params.n_threads = params.n_threads_batch = 1
    if pooling:
        params.embeddings, params.pooling_type = True, pooling
    context = llama.llama_init_from_model(model, params)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(n_tokens, 0, 1)
    batch.n_tokens = n_tokens
    for i in range(n_tokens):
        batch.token[i] = (i * i * 31 + i * 7 + 3) % n_vocab
        batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = i, 1, 0, 1
    if llama.llama_decode(context, batch):
        raise RuntimeError("not decoded")
    return context, n_vocab


def logits(model, kept):
    context, n_vocab = begin(model, n_tokens=kept[-1] + 1)
    rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (n_vocab,)).copy() for i in kept]
    llama.llama_free(context)
    return np.stack(rows)


def embeddings(model):
    n_embd = llama.llama_model_n_embd(model)
    rows = []
    for pooling in [1, 2, 3]:
        context, _ = begin(model, pooling)
        row = np.ctypeslib.as_array(llama.llama_get_embeddings_seq(context, 0), (n_embd,)).astype("f8")
        rows.append(row / np.sqrt((row**2).sum()))
        llama.llama_free(context)
    return np.stack(rows)


llama.llama_log_set(quiet, ctypes.c_void_p(0))
llama.llama_backend_init()
only = sys.argv[2:]
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.gguf")):
    if only and path.stem not in only:
        continue
    model = load(path)
    recipe = (pathlib.Path(__file__).parent / f"{path.stem}.txt").read_text()
    pooled = ".pooling_type = " in recipe
    rows = embeddings(model) if pooled else logits(model, LONG.get(path.stem, KEPT))
    rows = rows.astype("<f4")
    llama.llama_model_free(model)
    assert np.isfinite(rows).all(), path
    rows.tofile(pathlib.Path(__file__).parent / f"{path.stem}.logits")
    print(path.stem, rows.shape, float(np.sqrt((rows**2).mean())), flush=True)
