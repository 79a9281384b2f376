// The cache of keys and values: pages of 64 positions, and of each sequence a list of its pages.
//
//     f16     (page, head, position of 64, dim) numbers
//     q8_0    (page, head, position of 64) rows of dim codes, then a scale (f16) for each 32, filled up to 16 bytes
//
// A dim is a multiple of 8, so that sixteen bytes of numbers, or eight of codes, are read at once.
#pragma once
#include "q8.cuh"

#define PAGE 64

enum KvType { KV_F16, KV_Q8_0 };

// Bytes of the row of one position and head.
__device__ __forceinline__ u32 row_bytes(u32 type, u32 dim) {
    return type == KV_F16 ? 2 * dim : (dim + (dim + 31) / 32 * 2 + 15) / 16 * 16;
}

// Number of the row of a position of the sequence with these pages.
__device__ __forceinline__ u64 cache_row(const u32* pages, u32 position, u32 head, u32 n_head_kv) {
    return (u64(pages[position / PAGE]) * n_head_kv + head) * PAGE + position % PAGE;
}

// Eight values from place i on, a multiple of 8, of a row.
template <int TYPE>
__device__ __forceinline__ void load_8(const u8* row, u32 dim, u32 i, float (&to)[8]) {
    if (TYPE == KV_F16) {
        uint4 w = *reinterpret_cast<const uint4*>(row + 2 * i);
        to[0] = low_half(w.x), to[1] = high_half(w.x), to[2] = low_half(w.y), to[3] = high_half(w.y);
        to[4] = low_half(w.z), to[5] = high_half(w.z), to[6] = low_half(w.w), to[7] = high_half(w.w);
    } else {
        uint2 w = *reinterpret_cast<const uint2*>(row + i);
        float scale = half_to_float(*reinterpret_cast<const u16*>(row + dim + i / 32 * 2));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            to[j] = float(i8(w.x >> 8 * j)) * scale;
            to[4 + j] = float(i8(w.y >> 8 * j)) * scale;
        }
    }
}

// A block writes a row of the cache.
__device__ __forceinline__ void store_row(u8* cache, u32 type, u64 row, u32 dim, const float* x) {
    u8* to = cache + row * row_bytes(type, dim);
    if (type == KV_F16) {
        for (u32 i = threadIdx.x; i < dim; i += blockDim.x) reinterpret_cast<u16*>(to)[i] = float_to_half(x[i]);
        return;
    }
    // a warp 32 values, as ggml's reference rounds them: the largest becomes 127 or -127, ties go away from zero
    u32 lane = threadIdx.x % WARP;
    for (u32 first = threadIdx.x / WARP * 32; first < dim; first += blockDim.x) {
        u32 i = first + lane;
        float value = i < dim ? x[i] : 0.0f;
        float d = __fdiv_rn(warp_max(fabsf(value)), 127.0f);
        float inverse = d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d);
        if (i < dim) to[i] = u8(i8(int(roundf(__fmul_rn(value, inverse)))));
        if (lane == 0) *reinterpret_cast<u16*>(to + dim + first / 32 * 2) = float_to_half(d);
    }
}
