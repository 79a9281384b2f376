// Rows of activations in the forms that matrix products take: normalized or not, as floats, quantized, or as bf16.
#include "norm.cuh"

// A block a row: `y`, `q8` and `bf16` (rows of n; q8 only where n is a multiple of 32) each become the normalized row x,
// where they are asked for. `sum` (rows of n) gains `factor` times it. Block y is for part y of the row, of n values with
// weights of their own.
extern "C" __global__ void __launch_bounds__(512) norm_rows(
    const float* x, u32 x_stride, u32 n, u32 kind, float eps, const float* weight, const float* bias,
    float* y, Q8* q8, u16* bf16, float* sum, float factor
) {
    u64 row = u64(blockIdx.x) * gridDim.y + blockIdx.y, before = u64(blockIdx.y) * n;
    Norm norm = {int(kind), eps, weight + before, bias ? bias + before : nullptr};
    normalize(x + blockIdx.x * u64(x_stride) + before, n, norm, [&](int i, float v) {
        if (y) y[row * n + i] = v;
        if (q8) quantize_q8(v, q8 + (row * n + i) / 32);
        if (bf16) bf16[row * n + i] = float_to_bf16(v);
        if (sum) sum[row * n + i] += factor * v;
    });
}
