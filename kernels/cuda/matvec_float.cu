// Rows of floats (F32, F16, BF16) times columns of floats.
#include "formats.cuh"
#include "matvec.cuh"

template <class F>
struct Product {
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

#define ENTRY(name, F, columns, blocks)                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, blocks) matvec_##name##_##columns(MATVEC_PARAMETERS(float)) { \
        matvec<Product<F>, columns>(MATVEC_ARGUMENTS, x);                                                   \
    }
#define ENTRIES(name, F) ENTRY(name, F, 1, 2) ENTRY(name, F, 4, 1) ENTRY(name, F, 8, 1)
ENTRIES(f32, F32)
ENTRIES(f16, F16)
ENTRIES(bf16, BF16)
