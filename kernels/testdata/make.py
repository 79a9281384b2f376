"""Makes the test vectors of kernels/src/quant: what the numpy implementation of the formats says.

    pip install gguf==0.19.0 numpy==2.4.6
    python kernels/testdata/make.py

writes one FORMAT.bin for each format beside this file, all numbers little-endian:

    u32 exact, u32 blocks, u32 quantized
    blocks    x block bytes      blocks to dequantize; the first `exact` of them have powers of two as their scales and
                                 use the extreme codes in every group, so that the weights can be quantized exactly
    blocks    x block x f32      their weights
    quantized x block x f32      weights to quantize (none where there is no numpy quantizer to agree with)
    quantized x block bytes      their blocks
"""

import struct
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

# Places of the f16 numbers in a block.
F16_AT = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.IQ4_NL: [0], Type.IQ4_XS: [0], Type.MXFP4: [],
    Type.IQ1_S: [0], Type.IQ1_M: [], Type.IQ2_XXS: [0], Type.IQ2_XS: [0], Type.IQ2_S: [0], Type.IQ3_XXS: [0],
    Type.IQ3_S: [0], Type.TQ1_0: [52], Type.TQ2_0: [64], Type.NVFP4: [],
}  # fmt: skip
# Weights are whole numbers times the f16 divided by this.
PARTS = {Type.IQ1_S: 8, Type.IQ1_M: 8, Type.IQ2_XXS: 8, Type.IQ2_XS: 8, Type.IQ2_S: 8, Type.IQ3_XXS: 4}
FLOATS = [Type.F32, Type.F16, Type.BF16]
QUANTIZERS = [
    *FLOATS, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.MXFP4, Type.TQ1_0, Type.TQ2_0,
]  # fmt: skip


def extreme_points(type, blocks):
    """In each group a point of the codebook with the largest code; the extreme scale in the first group."""
    if type == Type.IQ2_XXS:
        blocks[:, 2::8] = 0xFF
        blocks[:, 9] |= 0xF0
    if type == Type.IQ2_XS:
        blocks[:, 2:66:4] = 0xFF
        blocks[:, 3:66:4] |= 0x01
        blocks[:, 66] |= 0x0F
    if type == Type.IQ2_S:
        blocks[:, 2:34:2] = 0xFF
        blocks[:, 66:74] |= 0x33
        blocks[:, 74] |= 0x0F
    if type == Type.IQ3_XXS:
        blocks[:, 2:66:8] = 0xFF
        blocks[:, 69] |= 0xF0
    if type == Type.IQ3_S:
        blocks[:, 2:66:8] = 0xFF
        blocks[:, 66:74] |= 0x01
        blocks[:, 106] |= 0x0F
    # The first point is all -1, the last one all 1: the shift goes the same way.
    if type == Type.IQ1_S:
        down = blocks[:, 35:50:2] >> 7 == 1
        blocks[:, 2:34:4] = np.where(down, 0x00, 0xFF)
        blocks[:, 34:50:2] = blocks[:, 34:50:2] & 0xF8 | np.where(down, 0, 7)
        blocks[:, 35] |= 0x70
    if type == Type.IQ1_M:
        down = blocks[:, 32:48] >> 3 & 1 == 1
        blocks[:, 0:32:2] = np.where(down, 0x00, 0xFF)
        blocks[:, 32:48] = blocks[:, 32:48] & 0xF8 | np.where(down, 0, 7)
        blocks[:, 48] |= 0x07
    # Ternary weights.
    if type == Type.TQ2_0:
        qs = blocks[:, :64]
        qs &= ~(qs >> 1 & 0x55)
    if type == Type.NVFP4:
        blocks[:, 4::8] = 0xF7


def extreme_codes(type, blocks):
    """The lowest code first in each group and the highest second; the extreme scale in the first group."""
    if type in PARTS or type in (Type.IQ3_S, Type.TQ1_0, Type.TQ2_0, Type.NVFP4):
        return extreme_points(type, blocks)
    codes = {
        Type.Q5_0: range(6, 22), Type.Q5_1: range(8, 24), Type.Q8_0: range(2, 34), Type.Q2_K: range(16, 80),
        Type.Q3_K: range(96), Type.Q4_K: range(16, 144), Type.Q5_K: range(16, 176), Type.Q6_K: range(192),
        Type.IQ4_XS: range(8, 136), Type.MXFP4: range(1, 17),
    }.get(type, range(blocks.shape[1] - 16, blocks.shape[1]))  # fmt: skip
    blocks[:, codes[0::16]] = 0x00
    blocks[:, codes[1::16]] = 0xFF
    if type in (Type.Q5_0, Type.Q5_1):  # the high bits are in another order
        at = 2 if type == Type.Q5_0 else 4
        blocks[:, [at, at + 2]] = blocks[:, [at, at + 2]] & 0xFC | 0x02
    if type == Type.Q8_0:
        qs = blocks[:, 2:]
        qs[qs == 0x80] = 0
        qs[:, 0] = 0x81
    if type == Type.Q2_K:
        blocks[:, 0] = 0xFF
    if type == Type.Q3_K:
        blocks[:, 96] &= 0xF0
        blocks[:, 104] &= 0xFC
    if type in (Type.Q4_K, Type.Q5_K):
        blocks[:, [4, 8]] |= 0x3F
    if type == Type.Q6_K:
        blocks[:, 192] = 0x80
    if type == Type.IQ4_XS:
        blocks[:, 2] &= 0xFC
        blocks[:, 4] &= 0xF0


def f16(x):
    return np.frombuffer(np.float16(x).tobytes(), np.uint8)


def set_f16_of_iq1_m(block, two_bytes):
    """The f16 of an IQ1_M block is in the upper halves of four bytes."""
    low, high = two_bytes
    nibbles = np.array([low & 15, low >> 4, high & 15, high >> 4], np.uint8)
    block[49::2] = block[49::2] & 0x0F | nibbles << 4


def block_vectors(type, random):
    block, size = GGML_QUANT_SIZES[type]
    n_exact, n_random = (2, 2) if block == 256 else (8, 8)

    exact = random.integers(0, 256, (n_exact, size), np.uint8)
    extreme_codes(type, exact)
    for i, b in enumerate(exact):
        for at, scale in zip(F16_AT[type], [2.0**-4, 2.0**-3]):
            b[at : at + 2] = f16(scale * PARTS.get(type, 1) * 2.0 ** -(i % 2))
        if type == Type.IQ1_M:
            set_f16_of_iq1_m(b, f16(2.0**-4 * PARTS[type] * 2.0 ** -(i % 2)))
        if type == Type.NVFP4:
            b[:4] = (7 - 3 - i % 2) << 3
        if type == Type.MXFP4:
            b[0] = 128 - 4 - i % 2
        if type in (Type.Q4_1, Type.Q5_1):
            b[2:4] = f16(-0.375)

    # Scales of any size, none of them NaN or infinite.
    usual = random.integers(0, 256, (n_random, size), np.uint8)
    for at in F16_AT[type]:
        usual[:, at + 1] &= 0xBB
    if type == Type.IQ1_M:
        usual[:, [53, 55]] &= 0xBF

    bits = [0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 0x0001, 0x83FF, 0x0000, 0x8000, 0x7BFF, 0xFBFF]
    bits = [0x7C00, 0xFE01, 0x0001, 0x8000, 0xFBFF] if block == 256 else bits
    extreme = random.integers(0, 256, (len(bits), size), np.uint8)
    for b, scale in zip(extreme, bits):
        for at in F16_AT[type]:
            b[at : at + 2] = np.frombuffer(struct.pack("<H", scale), np.uint8)
        if type == Type.IQ1_M:
            set_f16_of_iq1_m(b, struct.pack("<H", scale))
    if type == Type.NVFP4:
        extreme[:, :4] = np.array([[0x00, 0x01, 0x07, 0x08], [0x38, 0x7E, 0x7F, 0x80], [0x81, 0xB8, 0xFE, 0xFF]] * 4)[:11]
    if type == Type.MXFP4:
        extreme[:, 0] = [0, 1, 2, 3, 127, 128, 129, 252, 253, 254, 255]
    fills = np.array([[0x00] * size, [0xFF] * size], np.uint8)
    return n_exact, np.concatenate([exact, usual, extreme, fills])


def float_vectors(type, random):
    _, size = GGML_QUANT_SIZES[type]
    exact = quantize(random.integers(-15, 16, 256).astype(np.float32) / 8, type).view(np.uint8).reshape(-1, size)
    usual = random.integers(0, 256, (256, size), np.uint8)
    # zero, subnormals, the least normal, the largest, infinity, NaN of both kinds; both signs
    top = {Type.F32: 0x7F800000, Type.F16: 0x7C00, Type.BF16: 0x7F80}[type]
    step = {Type.F32: 0x00800000, Type.F16: 0x0400, Type.BF16: 0x0080}[type]
    bits = [0, 1, step - 1, step, top - 1, top, top + 1, top | step // 2]
    bits += [b | 1 << (8 * size - 1) for b in bits]
    bits += bits  # a row of 32
    extreme = np.array([list(b.to_bytes(size, "little")) for b in bits], np.uint8)
    return len(exact), np.concatenate([exact, usual, extreme])


def to_quantize(type, random):
    if type in FLOATS:
        x = random.standard_normal(256) * 2.0 ** random.integers(-30, 18, 256)
        ties = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 65519, 65520, -65520, 2**-25, -(2**-24)])
        special = np.array([0.0, -0.0, 1e38, -3.4028235e38, 1e-40, -1e-45, np.inf, -np.inf])
        return np.concatenate([x, ties, special]).astype(np.float32)
    x = random.standard_normal((24, 32)) * 2.0 ** random.integers(-12, 4, (24, 1))
    x[0] = 0
    x[1] = 0.5  # all alike
    x[2] = -0.5
    x[3] = np.arange(32) - 16  # ties
    x[4] = (16 - np.arange(32)) * 8
    x[5] *= 1e-7  # the scale is subnormal in f16
    x[6] = np.abs(x[6])
    x[7] = -np.abs(x[7])
    x[8, 1:] = 0
    x[9] = np.arange(32) * 4 - 62.5  # ties of 8-bit codes
    x[9, 0] = 127
    x[10] = np.resize([0.5, -0.5], 32)  # which of two is the largest
    if type in (Type.TQ1_0, Type.TQ2_0):
        x = np.tile(x[:11], 8)[:, : GGML_QUANT_SIZES[type][0]]
    return x.astype(np.float32).ravel()


def main():
    for type in [*FLOATS, *F16_AT]:
        random = np.random.default_rng(int(type))
        make = float_vectors if type in FLOATS else block_vectors
        exact, blocks = make(type, random)
        with np.errstate(all="ignore"):
            weights = dequantize(blocks, type)
            x = to_quantize(type, random) if type in QUANTIZERS else np.zeros(0, np.float32)
            q = quantize(x, type) if len(x) else x
        quantized = len(x) // GGML_QUANT_SIZES[type][0]
        header = struct.pack("<3I", exact, len(blocks), quantized)
        parts = [blocks, weights.astype("<f4"), x.astype("<f4"), q]
        path = Path(__file__).parent / f"{type.name}.bin"
        path.write_bytes(header + b"".join(np.ascontiguousarray(p).tobytes() for p in parts))
        print(f"{path.name}: {len(blocks)} blocks, {quantized} quantized, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
