// How the bits of each format become codes, scales and offsets; the formats are drawn in quant/<format>.rs.
//
// All formats are read in units of 32 weights, which are two runs of 16 neighbours with one scale each:
//
//     weight[at(u, r) + i] = scale[r] * code[16 r + i] + offset[r]        i < 16,  r = 0 or 1
//
// The runs of a unit are those whose bits lie in the same bytes. Rows are whole blocks; behind the last row three more
// bytes may be read.
#pragma once
#include "common.cuh"
#include "codebooks.cuh"

struct Unit {
    u32 codes[8];     // 32 codes of 8 bits, signed
    float scale[2];
    float offset[2];  // where the format has offsets
};

// ---- bytes of a word

// Each byte minus the number whose copies are `b`, for bytes below 128.
__device__ __forceinline__ u32 minus(u32 a, u32 b) { return ((a | 0x80808080u) - b) ^ 0x80808080u; }

// Bits 0 to 3 as bytes 0 or 1.
__device__ __forceinline__ u32 spread_bits(u32 bits) { return ((bits & 15) * 0x00204081u) & 0x01010101u; }

// Bytes that are not 0, negative where bits 0 to 3 of `signs` are set.
__device__ __forceinline__ u32 with_signs(u32 a, u32 signs) {
    u32 ones = spread_bits(signs);
    return (a ^ ones * 255) + ones;
}

// The signs of eight weights from those of seven: they are even in number.
__device__ __forceinline__ u32 even_signs(u32 seven) {
    seven &= 127;
    return seven | (__popc(seven) & 1) << 7;
}

// Four fields of two bits as nibbles.
__device__ __forceinline__ u32 pairs_to_nibbles(u32 fields) {
    fields &= 0xff;
    fields = (fields | fields << 4) & 0x0f0f;
    return (fields | fields << 2) & 0x3333;
}

// The entries of a table of 16 that the eight nibbles of `w` name: the lower nibbles' and the upper nibbles'.
__device__ __forceinline__ void look_up(const u32 (&table)[4], u32 w, u32& low, u32& high) {
    u32 found[2];
#pragma unroll
    for (int i = 0; i < 2; i++, w >>= 16) {
        u32 a = bytes_of(table[0], table[1], w & 0x7777), b = bytes_of(table[2], table[3], w & 0x7777);
        found[i] = bytes_of(a, b, 0x3210 | (w & 0x8888) >> 1);
    }
    low = bytes_of(found[0], found[1], 0x6420);
    high = bytes_of(found[0], found[1], 0x7531);
}

__device__ __forceinline__ u32 byte_at(const u8* p) { return __ldg(p); }
__device__ __forceinline__ u32 u16_at(const u8* p) { return __ldg(reinterpret_cast<const u16*>(p)); }

// Products as the scalar version rounds them.
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }

// ---- 32 weights with one scale

struct Q4_0 {
    static const int N = 32, BYTES = 18;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        u32 w[4];
        load_words<2>(b + 2, w);
        for (int i = 0; i < 4; i++) {
            to.codes[i] = minus(w[i] & 0x0f0f0f0f, 0x08080808);
            to.codes[4 + i] = minus(w[i] >> 4 & 0x0f0f0f0f, 0x08080808);
        }
        to.scale[0] = to.scale[1] = load_half(b);
    }
};

struct Q4_1 {
    static const int N = 32, BYTES = 20;
    static const bool AFFINE = true;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        u32 w[5];
        load_words<4>(b, w);
        for (int i = 0; i < 4; i++) {
            to.codes[i] = w[1 + i] & 0x0f0f0f0f;
            to.codes[4 + i] = w[1 + i] >> 4 & 0x0f0f0f0f;
        }
        to.scale[0] = to.scale[1] = low_half(w[0]);
        to.offset[0] = to.offset[1] = high_half(w[0]);
    }
};

// The codes of Q5_0 and Q5_1: w[0] their upper bits, the rest the lower ones.
__device__ __forceinline__ void codes_of_5_bits(const u32* w, u32 (&codes)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        codes[i] = (w[1 + i] & 0x0f0f0f0f) | spread_bits(w[0] >> 4 * i) << 4;
        codes[4 + i] = (w[1 + i] >> 4 & 0x0f0f0f0f) | spread_bits(w[0] >> (16 + 4 * i)) << 4;
    }
}

struct Q5_0 {
    static const int N = 32, BYTES = 22;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        u32 w[5];
        load_words<2>(b + 2, w);
        codes_of_5_bits(w, to.codes);
        for (int i = 0; i < 8; i++) to.codes[i] = minus(to.codes[i], 0x10101010);
        to.scale[0] = to.scale[1] = load_half(b);
    }
};

struct Q5_1 {
    static const int N = 32, BYTES = 24;
    static const bool AFFINE = true;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        u32 w[6];
        load_words<8>(b, w);
        codes_of_5_bits(w + 1, to.codes);
        to.scale[0] = to.scale[1] = low_half(w[0]);
        to.offset[0] = to.offset[1] = high_half(w[0]);
    }
};

struct Q8_0 {
    static const int N = 32, BYTES = 34;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        load_words<2>(b + 2, to.codes);
        to.scale[0] = to.scale[1] = load_half(b);
    }
};

struct IQ4_NL {
    static const int N = 32, BYTES = 18;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        u32 w[4];
        load_words<2>(b + 2, w);
        for (int i = 0; i < 4; i++) look_up(IQ4_TABLE, w[i], to.codes[i], to.codes[4 + i]);
        to.scale[0] = to.scale[1] = load_half(b);
    }
};

struct MXFP4 {
    static const int N = 32, BYTES = 17;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int, Unit& to) {
        u32 w[4];
        load_words<1>(b + 1, w);
        for (int i = 0; i < 4; i++) look_up(E2M1_TABLE, w[i], to.codes[i], to.codes[4 + i]);
        u32 e = byte_at(b);  // 2^(e - 128), which is subnormal for 0 and 1
        to.scale[0] = to.scale[1] = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    }
};

struct NVFP4 {
    static const int N = 64, BYTES = 36;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ float half_e4m3(u32 bits) {
        // the same fields of an f16 are 2^8 times smaller
        return bits == 0x7f ? 0.0f : half_to_float(u16((bits & 0x7f) << 7)) * 128.0f;
    }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[4];
        load_words<4>(b + 4 + 16 * u, w);
        for (int r = 0; r < 2; r++) {
            for (int i = 0; i < 2; i++) {
                look_up(E2M1_TABLE, w[2 * r + i], to.codes[4 * r + i], to.codes[4 * r + 2 + i]);
            }
            to.scale[r] = half_e4m3(byte_at(b + 2 * u + r));
        }
    }
};

// ---- 256 weights with scales of their groups

// Weight `at(u, r)` of the formats that keep four planes of two bits in runs of 32 bytes: unit u is 16 of those bytes, and
// of their planes the lower or the upper two.
struct Planes {
    static __device__ __forceinline__ int at(int u, int r) {
        return 128 * (u >> 2) + 32 * (2 * (u & 1) + r) + 16 * (u >> 1 & 1);
    }
    // The fields of run r.
    static __device__ __forceinline__ u32 fields(u32 w, int u, int r) { return w >> (4 * (u & 1) + 2 * r) & 0x03030303; }
};

struct Q2_K : Planes {
    static const int N = 256, BYTES = 84;
    static const bool AFFINE = true;
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[4], d[1];
        load_words<4>(b + 16 + 16 * (u >> 1), w);
        load_words<4>(b + 80, d);
        for (int r = 0; r < 2; r++) {
            for (int i = 0; i < 4; i++) to.codes[4 * r + i] = fields(w[i], u, r);
            u32 scale = byte_at(b + at(u, r) / 16);
            to.scale[r] = times(low_half(d[0]), float(scale & 15));
            to.offset[r] = -times(high_half(d[0]), float(scale >> 4));
        }
    }
};

struct Q3_K : Planes {
    static const int N = 256, BYTES = 110;
    static const bool AFFINE = false;
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        float d = load_half(b + 108);
        for (int r = 0; r < 2; r++) {
            int g = at(u, r) / 16;
            u32 low = byte_at(b + 96 + g % 8) >> 4 * (g / 8) & 15;
            u32 upper = byte_at(b + 104 + g % 4) >> 2 * (g / 4) & 3;
            to.scale[r] = times(d, float(int(low | upper << 4) - 32));
        }
        u32 w[4], high[4];
        load_words<2>(b + 32 + 16 * (u >> 1), w);
        load_words<2>(b + 16 * (u >> 1 & 1), high);
        for (int i = 0; i < 4; i++) {
            for (int r = 0; r < 2; r++) {
                u32 code = fields(w[i], u, r) | (high[i] >> at(u, r) / 32 & 0x01010101) << 2;
                to.codes[4 * r + i] = minus(code, 0x04040404);
            }
        }
    }
};

struct TQ2_0 : Planes {
    static const int N = 256, BYTES = 66;
    static const bool AFFINE = false;
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[4];
        load_words<2>(b + 16 * (u >> 1), w);
        for (int r = 0; r < 2; r++) {
            for (int i = 0; i < 4; i++) to.codes[4 * r + i] = minus(fields(w[i], u, r), 0x01010101);
        }
        to.scale[0] = to.scale[1] = load_half(b + 64);
    }
};

// Scale and minimum of group g of Q4_K and Q5_K, from their 12 bytes.
__device__ __forceinline__ void scale_and_min(const u32* w, int g, u32& scale, u32& min) {
    int shift = 8 * (g & 3);
    u32 a = w[0] >> shift & 255, b = w[1] >> shift & 255, low = w[2] >> shift & 255;
    scale = g < 4 ? a & 63 : a >> 6 << 4 | (low & 15);
    min = g < 4 ? b & 63 : b >> 6 << 4 | low >> 4;
}

// What Q4_K and Q5_K share: unit u is 16 of the 32 bytes of two groups.
struct SixBitScales {
    static __device__ __forceinline__ int at(int u, int r) { return 64 * (u >> 1) + 32 * r + 16 * (u & 1); }
    static __device__ __forceinline__ void scales(const u8* b, int u, Unit& to) {
        u32 head[4];
        load_words<16>(b, head);
        for (int r = 0; r < 2; r++) {
            u32 scale, min;
            scale_and_min(head + 1, 2 * (u >> 1) + r, scale, min);
            to.scale[r] = times(low_half(head[0]), float(scale));
            to.offset[r] = -times(high_half(head[0]), float(min));
        }
    }
};

struct Q4_K : SixBitScales {
    static const int N = 256, BYTES = 144;
    static const bool AFFINE = true;
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[4];
        load_words<16>(b + 16 + 16 * u, w);
        for (int i = 0; i < 4; i++) {
            to.codes[i] = w[i] & 0x0f0f0f0f;
            to.codes[4 + i] = w[i] >> 4 & 0x0f0f0f0f;
        }
        scales(b, u, to);
    }
};

struct Q5_K : SixBitScales {
    static const int N = 256, BYTES = 176;
    static const bool AFFINE = true;
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[4], high[4];
        load_words<16>(b + 48 + 16 * u, w);
        load_words<16>(b + 16 + 16 * (u & 1), high);
        for (int i = 0; i < 4; i++) {
            u32 planes = high[i] >> 2 * (u >> 1);
            to.codes[i] = (w[i] & 0x0f0f0f0f) | (planes & 0x01010101) << 4;
            to.codes[4 + i] = (w[i] >> 4 & 0x0f0f0f0f) | (planes >> 1 & 0x01010101) << 4;
        }
        scales(b, u, to);
    }
};

struct Q6_K {
    static const int N = 256, BYTES = 210;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 128 * (u >> 2) + 64 * r + 16 * (u & 3); }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 low[4], high[4];
        load_words<2>(b + 16 * u, low);
        load_words<2>(b + 128 + 32 * (u >> 2) + 16 * (u & 1), high);
        float d = load_half(b + 208);
        for (int r = 0; r < 2; r++) {
            int shift = 2 * (2 * r + (u >> 1 & 1));
            for (int i = 0; i < 4; i++) {
                u32 code = (low[i] >> 4 * r & 0x0f0f0f0f) | (high[i] >> shift & 0x03030303) << 4;
                to.codes[4 * r + i] = minus(code, 0x20202020);
            }
            to.scale[r] = times(d, float(i8(byte_at(b + 192 + at(u, r) / 16))));
        }
    }
};

struct IQ4_XS {
    static const int N = 256, BYTES = 136;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[4], head[2];
        load_words<8>(b + 8 + 16 * u, w);
        load_words<8>(b, head);
        for (int i = 0; i < 4; i++) look_up(IQ4_TABLE, w[i], to.codes[i], to.codes[4 + i]);
        u32 scale = (head[1] >> 4 * u & 15) | (head[0] >> (16 + 2 * u) & 3) << 4;
        to.scale[0] = to.scale[1] = times(low_half(head[0]), float(int(scale) - 32));
    }
};

struct TQ1_0 {
    static const int N = 256, BYTES = 54;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    // Digit k of four bytes, minus 1; `power` is 3^k.
    static __device__ __forceinline__ u32 digits(u32 w, u32 power) {
        u32 even = (w & 0x00ff00ff) * power & 0x00ff00ff, odd = (w >> 8 & 0x00ff00ff) * power & 0x00ff00ff;
        even = even * 3 >> 8 & 0x00030003, odd = odd * 3 >> 8 & 0x00030003;
        return minus(even | odd << 8, 0x01010101);
    }
    static __device__ __forceinline__ u32 power_of_3(int k) { return k == 4 ? 81 : 0x1b090301u >> 8 * k & 255; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        for (int r = 0; r < 2; r++) {
            int run = 2 * u + r;
            if (run == 15) {
                u32 w[1];
                load_words<2>(b + 48, w);
                for (int i = 0; i < 4; i++) to.codes[4 * r + i] = digits(w[0], power_of_3(i));
            } else {
                u32 w[4];
                load_words<2>(b + (run < 10 ? 16 * r : 32), w);
                u32 power = power_of_3(run < 10 ? u : run - 10);
                for (int i = 0; i < 4; i++) to.codes[4 * r + i] = digits(w[i], power);
            }
        }
        to.scale[0] = to.scale[1] = load_half(b + 52);
    }
};

// ---- 256 weights that are points of a codebook

// Eight numbers of a point of IQ2, of two bits each.
__device__ __forceinline__ void point_of_8(u32 point, u32 levels, u32 signs, u32* codes) {
    codes[0] = with_signs(bytes_of(levels, 0, pairs_to_nibbles(point)), signs);
    codes[1] = with_signs(bytes_of(levels, 0, pairs_to_nibbles(point >> 8)), signs >> 4);
}

struct IQ2_XXS {
    static const int N = 256, BYTES = 66;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[2];
        load_words<2>(b + 2 + 8 * u, w);
        for (int j = 0; j < 4; j++) {
            point_of_8(iq2_xxs_point(w[0] >> 8 * j & 255), IQ2_LEVELS, even_signs(w[1] >> 7 * j), to.codes + 2 * j);
        }
        to.scale[0] = to.scale[1] = times(load_half(b) * 0.125f, float(2 * (w[1] >> 28) + 1));
    }
};

struct IQ2_XS {
    static const int N = 256, BYTES = 74;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[2];
        load_words<2>(b + 2 + 8 * u, w);
        for (int j = 0; j < 4; j++) {
            u32 point = w[j / 2] >> 16 * (j % 2);
            point_of_8(iq2_xs_point(point & 511), IQ2_LEVELS, even_signs(point >> 9), to.codes + 2 * j);
        }
        u32 scales = byte_at(b + 66 + u);
        float d = load_half(b) * 0.125f;
        for (int r = 0; r < 2; r++) to.scale[r] = times(d, float(2 * (scales >> 4 * r & 15) + 1));
    }
};

struct IQ2_S {
    static const int N = 256, BYTES = 82;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 low[1], signs[1], high = byte_at(b + 66 + u);
        load_words<2>(b + 2 + 4 * u, low);
        load_words<2>(b + 34 + 4 * u, signs);
        for (int j = 0; j < 4; j++) {
            u32 place = (low[0] >> 8 * j & 255) | (high >> 2 * j & 3) << 8;
            point_of_8(iq2_s_point(place), IQ2_LEVELS, signs[0] >> 8 * j, to.codes + 2 * j);
        }
        u32 scales = byte_at(b + 74 + u);
        float d = load_half(b) * 0.125f;
        for (int r = 0; r < 2; r++) to.scale[r] = times(d, float(2 * (scales >> 4 * r & 15) + 1));
    }
};

struct IQ3_XXS {
    static const int N = 256, BYTES = 98;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[2], signs[1];
        load_words<2>(b + 2 + 8 * u, w);
        load_words<2>(b + 66 + 4 * u, signs);
        for (int i = 0; i < 8; i++) {
            u32 point = iq3_xxs_point(w[i / 4] >> 8 * (i % 4) & 255);
            u32 eight = even_signs(signs[0] >> 7 * (i / 2));
            to.codes[i] = with_signs(bytes_of(IQ3_XXS_LEVELS[0], IQ3_XXS_LEVELS[1], point), eight >> 4 * (i % 2));
        }
        to.scale[0] = to.scale[1] = times(load_half(b) * 0.25f, float(2 * (signs[0] >> 28) + 1));
    }
};

struct IQ3_S {
    static const int N = 256, BYTES = 110;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 w[2], signs[1], high = byte_at(b + 66 + u);
        load_words<2>(b + 2 + 8 * u, w);
        load_words<2>(b + 74 + 4 * u, signs);
        for (int i = 0; i < 8; i++) {
            u32 point = iq3_s_point((w[i / 4] >> 8 * (i % 4) & 255) | (high >> i & 1) << 8);
            to.codes[i] = with_signs(bytes_of(IQ3_S_LEVELS[0], IQ3_S_LEVELS[1], point), signs[0] >> 4 * i);
        }
        u32 s = byte_at(b + 106 + u / 2) >> 4 * (u % 2) & 15;
        to.scale[0] = to.scale[1] = times(load_half(b), float(2 * s + 1));
    }
};

// Eight numbers of a point of IQ1, 8 times -1, 0 or 1, one up or down.
__device__ __forceinline__ void shifted_point(u32 place, bool down, u32* codes) {
    u32 point = iq1_s_point(place), levels = down ? IQ1_LEVELS_DOWN : IQ1_LEVELS_UP;
    codes[0] = bytes_of(levels, 0, pairs_to_nibbles(point));
    codes[1] = bytes_of(levels, 0, pairs_to_nibbles(point >> 8));
}

struct IQ1_S {
    static const int N = 256, BYTES = 50;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 low[1], high = u16_at(b + 34 + 2 * u);
        load_words<2>(b + 2 + 4 * u, low);
        for (int j = 0; j < 4; j++) {
            shifted_point((low[0] >> 8 * j & 255) | (high >> 3 * j & 7) << 8, high >> 15, to.codes + 2 * j);
        }
        to.scale[0] = to.scale[1] = times(load_half(b) * 0.125f, float(2 * (high >> 12 & 7) + 1));
    }
};

struct IQ1_M {
    static const int N = 256, BYTES = 56;
    static const bool AFFINE = false;
    static __device__ __forceinline__ int at(int u, int r) { return 32 * u + 16 * r; }
    static __device__ __forceinline__ void unit(const u8* b, int u, Unit& to) {
        u32 low[1], scales[2], high = u16_at(b + 32 + 2 * u);
        load_words<4>(b + 4 * u, low);
        load_words<8>(b + 48, scales);
        for (int j = 0; j < 4; j++) {
            u32 nibble = high >> 4 * j;
            shifted_point((low[0] >> 8 * j & 255) | (nibble & 7) << 8, nibble >> 3 & 1, to.codes + 2 * j);
        }
        u32 bits = (scales[0] >> 12 & 15) | (scales[0] >> 28) << 4 | (scales[1] >> 12 & 15) << 8 | (scales[1] >> 28) << 12;
        float d = half_to_float(u16(bits)) * 0.125f;
        u32 four = (u < 4 ? scales[0] : scales[1]) >> 16 * (u >> 1 & 1);
        for (int r = 0; r < 2; r++) to.scale[r] = times(d, float(2 * (four >> 3 * (2 * (u & 1) + r) & 7) + 1));
    }
};

// ---- floats

struct F32 {
    static const int BYTES = 4;
    static __device__ __forceinline__ float from_word(u32 word) { return __uint_as_float(word); }
    static __device__ __forceinline__ float value(const u8* p) { return from_word(__ldg(reinterpret_cast<const u32*>(p))); }
};

struct F16 {
    static const int BYTES = 2;
    static __device__ __forceinline__ float from_word(u32 word) { return half_to_float(u16(word)); }
    static __device__ __forceinline__ float value(const u8* p) { return from_word(u16_at(p)); }
};

struct BF16 {
    static const int BYTES = 2;
    static __device__ __forceinline__ float from_word(u32 word) { return bf16_to_float(u16(word)); }
    static __device__ __forceinline__ float value(const u8* p) { return from_word(u16_at(p)); }
};

// The signed byte i of `codes` as a float, by making it the lowest byte of a float of 2^23.
__device__ __forceinline__ float code_to_float(u32 codes, int i) {
    return __uint_as_float(bytes_of(codes ^ 0x80808080u, 0x4b000000u, 0x7650 + i)) - 8388736.0f;
}

// The values of one run of a unit, as the scalar version computes them.
template <class F>
__device__ __forceinline__ void values_of(const Unit& unit, int r, float (&to)[16]) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float value = times(unit.scale[r], code_to_float(unit.codes[4 * r + i / 4], i % 4));
        to[i] = F::AFFINE ? __fadd_rn(value, unit.offset[r]) : value;
    }
}
