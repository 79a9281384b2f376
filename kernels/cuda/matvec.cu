// Rows of blocks of FORMAT times columns of quantized activations.
#include "formats.cuh"
#include "matvec.cuh"

struct Product {
    typedef Q8 X;

    static __device__ __forceinline__ u64 length(u64 values) { return values / 32; }

    template <int COLUMNS>
    static __device__ __forceinline__ void add(
        const u8* const (&rows)[2], const Q8* x, int k, float (&sum)[2][COLUMNS]
    ) {
        const int UNITS = FORMAT::N / 32;  // of a block
        int n = k / 32;
#pragma unroll 1
        for (int i = threadIdx.x % WARP; i < n; i += WARP) {
            int block = i / UNITS, u = i % UNITS;
            Unit unit[2];
#pragma unroll
            for (int s = 0; s < 2; s++) FORMAT::unit(rows[s] + u64(block) * FORMAT::BYTES, u, unit[s]);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int at = block * FORMAT::N + FORMAT::at(u, r);
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
                        if (FORMAT::AFFINE) v += unit[s].offset[r] * float(run.sum);
                        sum[s][c] += run.d * v;
                    }
                }
            }
        }
    }
};

#define JOIN(a, b, c) a##_##b##_##c
#define ENTRY(format, columns) JOIN(matvec, format, columns)

// Bounds keep registers from being spilled for the sake of more blocks: two blocks for one column, as memory needs them.

extern "C" __global__ void __launch_bounds__(WARPS* WARP, 2) ENTRY(NAME, 1)(MATVEC_PARAMETERS(Q8)) {
    matvec<Product, 1>(MATVEC_ARGUMENTS, x);
}
extern "C" __global__ void __launch_bounds__(WARPS* WARP, 1) ENTRY(NAME, 4)(MATVEC_PARAMETERS(Q8)) {
    matvec<Product, 4>(MATVEC_ARGUMENTS, x);
}
extern "C" __global__ void __launch_bounds__(WARPS* WARP) ENTRY(NAME, 8)(MATVEC_PARAMETERS(Q8)) {
    matvec<Product, 8>(MATVEC_ARGUMENTS, x);
}
