// What all kernels share: types, conversions, sums over a warp. No header of the toolkit is needed, so that the compiler
// library alone makes the PTX.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu
#define INFINITY __int_as_float(0x7f800000)

// ---- half precision and bf16

__device__ __forceinline__ float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

__device__ __forceinline__ u16 float_to_half(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Two halves in a word, the lower one first.
__device__ __forceinline__ u32 floats_to_halves(float low, float high) {
    return float_to_half(low) | u32(float_to_half(high)) << 16;
}

__device__ __forceinline__ float low_half(u32 halves) { return half_to_float(u16(halves)); }
__device__ __forceinline__ float high_half(u32 halves) { return half_to_float(u16(halves >> 16)); }

// The nearest bf16, ties to even; a NaN stays one.
__device__ __forceinline__ u16 float_to_bf16(float f) {
    u32 bits = __float_as_uint(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return u16(bits >> 16 | 0x40);
    return u16((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

__device__ __forceinline__ float bf16_to_float(u16 h) { return __uint_as_float(u32(h) << 16); }

// ---- integers

// c + the sum of four products of bytes, all signed.
__device__ __forceinline__ int dot4(int a, int b, int c) {
    int d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// Byte i of the result is byte (nibble i of `places`) of b:a.
__device__ __forceinline__ u32 bytes_of(u32 a, u32 b, u32 places) { return __byte_perm(a, b, places); }

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// ---- memory

// COUNT words from an address that is a multiple of ALIGN. Where that is less than a word, the words around are read and
// shifted into place: up to three bytes behind the last one are read as well, but not used.
template <int ALIGN, int COUNT>
__device__ __forceinline__ void load_words(const u8* p, u32 (&to)[COUNT]) {
    if constexpr (ALIGN >= 16 && COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT / 4; i++) {
            uint4 v = __ldg(reinterpret_cast<const uint4*>(p) + i);
            to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
        }
    } else if constexpr (ALIGN >= 8 && COUNT % 2 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            uint2 v = __ldg(reinterpret_cast<const uint2*>(p) + i);
            to[2 * i] = v.x, to[2 * i + 1] = v.y;
        }
    } else if constexpr (ALIGN >= 4) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) to[i] = __ldg(reinterpret_cast<const u32*>(p) + i);
    } else {
        u32 shift = u32(u64(p) & 3) * 8;
        const u32* words = reinterpret_cast<const u32*>(u64(p) & ~u64(3));
        u32 w[COUNT + 1];
#pragma unroll
        for (int i = 0; i < COUNT; i++) w[i] = __ldg(words + i);
        w[COUNT] = shift == 0 ? 0 : __ldg(words + COUNT);
#pragma unroll
        for (int i = 0; i < COUNT; i++) to[i] = __funnelshift_r(w[i], w[i + 1], shift);
    }
}

// The f16 at an even address.
__device__ __forceinline__ float load_half(const u8* p) {
    return half_to_float(__ldg(reinterpret_cast<const u16*>(p)));
}

// ---- warps and blocks

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(ALL_LANES, x, d);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, d));
    return x;
}

// The sum over all threads of a block of whole warps, for all of them. `room`: a float for each warp, in shared memory.
__device__ __forceinline__ float block_sum(float x, float* room) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    x = lane < blockDim.x / WARP ? room[lane] : 0.0f;
    return warp_sum(x);
}

// Whether this block is the last of `blocks` to arrive; what the others wrote before is seen by it, when read past the
// first cache (__ldcg). The counter is 0 before and after.
__device__ __forceinline__ bool arrives_last(u32* counter, u32 blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// ---- functions of values

enum Activation { SILU, GELU, RELU, RELU_SQUARED, CLAMPED };

__device__ __forceinline__ float swish(float x, float steepness) { return x / (1.0f + expf(-steepness * x)); }

__device__ __forceinline__ float tanh_of(float x) { return 1.0f - 2.0f / (1.0f + expf(2.0f * x)); }

// Numbers below the limit, and NaN.
__device__ __forceinline__ float at_most(float x, float limit) { return x > limit ? limit : x; }

__device__ __forceinline__ float activate(int activation, float x) {
    const float LIMIT = 7.0f;
    float relu = x < 0.0f ? 0.0f : x;
    switch (activation) {
        case SILU: return swish(x, 1.0f);
        case GELU: return swish(x, 2.0f * 0.7978845608f * (0.044715f * x * x + 1.0f));
        case RELU: return relu;
        case RELU_SQUARED: return relu * relu;
        default: return swish(at_most(x, LIMIT), 1.702f);
    }
}

// What an activated gate is multiplied with.
__device__ __forceinline__ float gate_of(int activation, float up) {
    const float LIMIT = 7.0f;
    return activation == CLAMPED ? -at_most(-at_most(up, LIMIT), LIMIT) + 1.0f : up;
}
