// The activation format of quantized weights: the numbers of quant/q8.rs, 48 bytes for 32 values.
//
//     x[i] ~ d * t[i],   t[i] = q[i] + z
#pragma once
#include "common.cuh"

struct Q8 {
    u32 q[8];    // 32 codes of 8 bits, -127..=127
    float d;     // scale
    int z;       // zero point, -127..=127
    int sum[2];  // of each 16 values of t
};

// What a run of 16 weights is multiplied with.
struct Q8Run {
    uint4 q;
    float d;
    int z, sum;
};

// The run of 16 values that begins at value `at`, a multiple of 16.
__device__ __forceinline__ Q8Run load_run(const Q8* x, int at) {
    const uint4* block = reinterpret_cast<const uint4*>(x + at / 32);
    int half = at / 16 % 2;
    uint4 q = block[half], rest = block[2];
    return {q, __uint_as_float(rest.x), int(rest.y), int(half ? rest.w : rest.z)};
}

// 1.5 * 2^23: adding it rounds to an integer, ties to even.
__device__ __forceinline__ float round_even(float x) { return __fsub_rn(__fadd_rn(x, 12582912.0f), 12582912.0f); }

// A warp quantizes 32 values, one of each lane. What is not finite poisons the block's scale.
__device__ __forceinline__ void quantize_q8(float x, Q8* to) {
    int lane = threadIdx.x % WARP;
    bool finite = __all_sync(ALL_LANES, (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u);
    float low = fminf(x, 0.0f), high = fmaxf(x, 0.0f);
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        low = fminf(low, __shfl_xor_sync(ALL_LANES, low, i));
        high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, i));
    }
    float d = __fdiv_rn(__fsub_rn(high, low), 254.0f);
    bool some = d >= 1.17549435e-38f;  // a smaller scale has no inverse
    int z = 0, q = 0;
    if (finite && some) {
        float inverse = __fdiv_rn(1.0f, d);
        float zero = __fadd_rn(round_even(__fmul_rn(low, inverse)), 127.0f);
        float steps = __fsub_rn(round_even(__fmul_rn(x, inverse)), zero);
        z = int(zero);
        q = int(fminf(steps, 127.0f));  // rounding at both ends can make the range one step too wide
    }
    if (!finite) d = __uint_as_float(0x7fc00000u);
    else if (!some) d = 0.0f;
    int sum = q + z;
#pragma unroll
    for (int i = 8; i > 0; i /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, i);
    reinterpret_cast<i8*>(to->q)[lane] = i8(q);
    if (lane % 16 == 0) to->sum[lane / 16] = sum;
    if (lane == 0) to->d = d, to->z = z;
}
