// What kernels of many columns on tensor cores share: the way of weights and activations to shared memory, and what becomes
// of products.
//
// 1. Both are bf16 there, 64 values of the sum at a time: two units of each row of weights. A unit's runs are not neighbours
//    in the row; the activations are fetched in the same order, so that any format's units will do.
// 2. Rows of shared memory are 128 bytes, eight chunks of 16; chunk c of row r lies at place c ^ r % 8, so that the eight
//    rows that are read together lie in different banks.
#pragma once
#include "formats.cuh"
#include "tensor.cuh"

#define STEP 64
#define THREADS 256

#ifdef FLOATS
// A run of 16 values at a time.
struct Weights {
    static const int UNITS = 1, N = 32;
    u32 words[32 * FORMAT::BYTES / 4];
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    __device__ __forceinline__ void load(const u8* row, int i) { load_words<16>(row + u64(i) * 32 * FORMAT::BYTES, words); }
    __device__ __forceinline__ void values(int r, float (&to)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            u32 word = words[(16 * r + i) * FORMAT::BYTES / 4];
            to[i] = FORMAT::from_word(FORMAT::BYTES == 2 && i % 2 ? word >> 16 : word);
        }
    }
    __device__ __forceinline__ void clear_unless(bool some) {
#pragma unroll
        for (int i = 0; i < 32 * FORMAT::BYTES / 4; i++) words[i] = some ? words[i] : 0;
    }
};
#else
struct Weights {
    static const int UNITS = FORMAT::N / 32, N = FORMAT::N;
    Unit unit;
    static __device__ __forceinline__ int at(int u, int r) { return FORMAT::at(u, r); }
    __device__ __forceinline__ void load(const u8* row, int i) {
        FORMAT::unit(row + u64(i / UNITS) * FORMAT::BYTES, i % UNITS, unit);
    }
    // Rounded once where the scalar version rounds twice, before all are rounded to 8 bits.
    __device__ __forceinline__ void values(int r, float (&to)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float code = code_to_float(unit.codes[4 * r + i / 4], i % 4);
            to[i] = FORMAT::AFFINE ? __fmaf_rn(unit.scale[r], code, unit.offset[r]) : times(unit.scale[r], code);
        }
    }
    __device__ __forceinline__ void clear_unless(bool some) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            unit.scale[r] = some ? unit.scale[r] : 0.0f;
            if (FORMAT::AFFINE) unit.offset[r] = some ? unit.offset[r] : 0.0f;
        }
    }
};
#endif

template <int ROWS>
struct Tile {
    uint4 chunks[ROWS][8];
    __device__ __forceinline__ uint4* at(u32 row, u32 chunk) { return &chunks[row][chunk ^ row % 8]; }
};

// Of the tile of COLUMNS columns of activations from `first` on, what this thread fetches: a chunk of every 32nd of them.
// `column_of`: where column c of the block is. Behind the last one there are copies of it, of which nothing is kept.
template <int COLUMNS>
struct Activations {
    static const int COUNT = COLUMNS / 32;
    const u16* from[COUNT];

    template <class ColumnOf>
    __device__ __forceinline__ Activations(const u16* x, u32 k, u32 first, u32 columns, u32 share, ColumnOf column_of) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            u32 c = first + threadIdx.x / 8 + 32 * i;
            from[i] = x + u64(column_of(min(c, columns - 1)) / share) * k;
        }
    }

    __device__ __forceinline__ void copy(int step, int n_units, Tile<COLUMNS>& tile) const {
        int chunk = threadIdx.x % 8, i = 2 * step + chunk / 4, unit = min(i, n_units - 1);
        int at = unit / Weights::UNITS * Weights::N + Weights::at(unit % Weights::UNITS, chunk / 2 % 2) + chunk % 2 * 8;
#pragma unroll
        for (int j = 0; j < COUNT; j++) copy_16(tile.at(threadIdx.x / 8 + 32 * j, chunk), from[j] + at, i < n_units);
    }
};

// A unit of weights as bf16, in the tile's row threadIdx.x / 2, whose half threadIdx.x % 2 it is; zeros where there is no
// such unit, so that no NaN meets the zeros of activations.
template <int ROWS>
__device__ __forceinline__ void store_weights(Weights& weights, bool some, Tile<ROWS>& tile) {
    weights.clear_unless(some);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float v[16];
        weights.values(r, v);
        u32 words[8];
#pragma unroll
        for (int i = 0; i < 8; i++) words[i] = floats_to_bf16(v[2 * i], v[2 * i + 1]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint4 c = {words[4 * half], words[4 * half + 1], words[4 * half + 2], words[4 * half + 3]};
            *tile.at(threadIdx.x / 2, 4 * (threadIdx.x % 2) + 2 * r + half) = c;
        }
    }
}

// The operands of a kernel: y (columns, y_stride) = x (columns, k; bf16) times w, times `scale` and plus `bias` (rows) where
// there are such; or y gains `factor` times that. Of experts, block z takes the columns order[starts[z]] to
// order[starts[z + 1]], the activations of column c / share, and the matrix that begins z * expert_rows rows behind the first.
#define MATMUL_PARAMETERS                                                                                              \
    const u8 *w, const float *scale, const float *bias, u64 row_bytes, const u16 *x, u32 k, u32 rows, u32 columns,     \
        const u32 *order, const u32 *starts, u32 expert_rows, u32 share, u32 add, float factor, float *y, u32 y_stride

#define JOIN(a, b) a##_##b
#define ENTRY(family, format) JOIN(family, format)
