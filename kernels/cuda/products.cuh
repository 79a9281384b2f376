// Two rows of weights times columns of activations: what a warp does in products of few columns.
#pragma once
#include "formats.cuh"
#include "q8.cuh"

// Of blocks of F and quantized activations.
template <class F>
struct BlockProduct {
    typedef Q8 X;

    static __device__ __forceinline__ u64 length(u64 values) { return values / 32; }

    template <int COLUMNS>
    static __device__ __forceinline__ void add(
        const u8* const (&rows)[2], const Q8* x, int k, float (&sum)[2][COLUMNS]
    ) {
        const int UNITS = F::N / 32;  // of a block
        int n = k / 32;
#pragma unroll 1
        for (int i = threadIdx.x % WARP; i < n; i += WARP) {
            int block = i / UNITS, u = i % UNITS;
            Unit unit[2];
#pragma unroll
            for (int s = 0; s < 2; s++) F::unit(rows[s] + u64(block) * F::BYTES, u, unit[s]);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int at = block * F::N + F::at(u, r);
                int codes[2];  // their sums, for the zero points
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    codes[s] = 0;
#pragma unroll
                    for (int j = 0; j < 4; j++) codes[s] = dot4(unit[s].codes[4 * r + j], 0x01010101, codes[s]);
                }
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    Q8Run run = load_run(x + c * n, at);
#pragma unroll
                    for (int s = 0; s < 2; s++) {
                        int t = run.z * codes[s];
                        t = dot4(unit[s].codes[4 * r], run.q.x, t);
                        t = dot4(unit[s].codes[4 * r + 1], run.q.y, t);
                        t = dot4(unit[s].codes[4 * r + 2], run.q.z, t);
                        t = dot4(unit[s].codes[4 * r + 3], run.q.w, t);
                        float v = unit[s].scale[r] * float(t);
                        if (F::AFFINE) v += unit[s].offset[r] * float(run.sum);
                        sum[s][c] += run.d * v;
                    }
                }
            }
        }
    }
};

// Of floats.
template <class F>
struct FloatProduct {
    typedef float X;

    static __device__ __forceinline__ u64 length(u64 values) { return values; }

    template <int COLUMNS>
    static __device__ __forceinline__ void add(
        const u8* const (&rows)[2], const float* x, int k, float (&sum)[2][COLUMNS]
    ) {
        const int N = 8;  // values that a lane reads at once
        int lane = threadIdx.x % WARP, whole = 0;
        // vectors where every row and column begins at a multiple of one
        bool aligned = (u64(rows[0]) | u64(rows[1])) % 16 == 0 && k % N == 0 && u64(x) % 16 == 0;
        if (aligned) {
            whole = k;
#pragma unroll 1
            for (int i = lane * N; i < k; i += WARP * N) {
                float w[2][N];
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    u32 words[N * F::BYTES / 4];
                    load_words<16>(rows[s] + u64(i) * F::BYTES, words);
#pragma unroll
                    for (int j = 0; j < N; j++) {
                        u32 word = words[j * F::BYTES / 4];
                        w[s][j] = F::from_word(F::BYTES == 2 && j % 2 ? word >> 16 : word);
                    }
                }
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    const float4* v4 = reinterpret_cast<const float4*>(x + u64(c) * k + i);
                    float4 a = v4[0], b = v4[1];
                    float v[N] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
                    for (int s = 0; s < 2; s++) {
#pragma unroll
                        for (int j = 0; j < N; j++) sum[s][c] += w[s][j] * v[j];
                    }
                }
            }
        }
#pragma unroll 1
        for (int i = whole + lane; i < k; i += WARP) {
#pragma unroll
            for (int s = 0; s < 2; s++) {
                float w = F::value(rows[s] + u64(i) * F::BYTES);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) sum[s][c] += w * x[u64(c) * k + i];
            }
        }
    }
};
