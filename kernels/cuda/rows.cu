// Rows of a matrix as floats: token embeddings.
#include "formats.cuh"

// Block (chunk of the row, token): y[t] = row ids[t] of w, times `factor`; or added to what there is.
template <class F>
__device__ __forceinline__ void blocks_to_floats(const u8* w, u64 row_bytes, const u32* ids, u32 n, float factor, u32 add, float* y) {
    const int UNITS = F::N / 32;
    u64 t = blockIdx.y;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;  // run of 16
    if (i >= n / 16) return;
    u32 unit_of_row = i / 2, r = i % 2, block = unit_of_row / UNITS, u = unit_of_row % UNITS;
    Unit unit;
    F::unit(w + ids[t] * row_bytes + u64(block) * F::BYTES, u, unit);
    float values[16];
    values_of<F>(unit, r, values);
    float* to = y + t * n + block * F::N + F::at(u, r);
#pragma unroll
    for (int j = 0; j < 16; j++) to[j] = add ? to[j] + factor * values[j] : factor * values[j];
}

template <class F>
__device__ __forceinline__ void to_floats(const u8* w, u64 row_bytes, const u32* ids, u32 n, float factor, u32 add, float* y) {
    u64 t = blockIdx.y;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float value = factor * F::value(w + ids[t] * row_bytes + u64(i) * F::BYTES);
    y[t * n + i] = add ? y[t * n + i] + value : value;
}

#define ENTRY(name, function)                                                                              \
    extern "C" __global__ void __launch_bounds__(128) rows_##name(                                         \
        const u8* w, u64 row_bytes, const u32* ids, u32 n, float factor, u32 add, float* y                 \
    ) {                                                                                                    \
        function(w, row_bytes, ids, n, factor, add, y);                                                    \
    }
#define OF_BLOCKS(name, F) ENTRY(name, blocks_to_floats<F>)
#define OF_FLOATS(name, F) ENTRY(name, to_floats<F>)

OF_BLOCKS(q4_0, Q4_0) OF_BLOCKS(q4_1, Q4_1) OF_BLOCKS(q5_0, Q5_0) OF_BLOCKS(q5_1, Q5_1) OF_BLOCKS(q8_0, Q8_0)
OF_BLOCKS(q2_k, Q2_K) OF_BLOCKS(q3_k, Q3_K) OF_BLOCKS(q4_k, Q4_K) OF_BLOCKS(q5_k, Q5_K) OF_BLOCKS(q6_k, Q6_K)
OF_BLOCKS(iq2_xxs, IQ2_XXS) OF_BLOCKS(iq2_xs, IQ2_XS) OF_BLOCKS(iq2_s, IQ2_S) OF_BLOCKS(iq3_xxs, IQ3_XXS)
OF_BLOCKS(iq3_s, IQ3_S) OF_BLOCKS(iq1_s, IQ1_S) OF_BLOCKS(iq1_m, IQ1_M) OF_BLOCKS(iq4_nl, IQ4_NL)
OF_BLOCKS(iq4_xs, IQ4_XS) OF_BLOCKS(tq1_0, TQ1_0) OF_BLOCKS(tq2_0, TQ2_0) OF_BLOCKS(mxfp4, MXFP4) OF_BLOCKS(nvfp4, NVFP4)
OF_FLOATS(f32, F32) OF_FLOATS(f16, F16) OF_FLOATS(bf16, BF16)
