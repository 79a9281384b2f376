"""Makes the codebooks of the IQ formats, as ggml defines them (`ggml-common.h`) and the Python package packs them.

    pip install gguf==0.19.0
    python kernels/src/quant/codebooks/make.py

writes one FORMAT.bin beside this file: for each entry, in order, two bytes; the lowest bits are its first number. Entries
of eight numbers have two bits for each, entries of four have four: a place among the levels of the format.
"""

from pathlib import Path

from gguf import quants

# IQ1_M has the codebook of IQ1_S.
for format in [quants.IQ1_S, quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S]:
    packed = bytes.fromhex(format.grid_hex.decode())
    assert len(packed) == 2 * format.grid_shape[0]
    path = Path(__file__).parent / f"{format.qtype.name.lower()}.bin"
    path.write_bytes(packed)
    print(f"{path.name}: {format.grid_shape[0]} entries of {format.grid_shape[1]}, levels {format.grid_map}")
