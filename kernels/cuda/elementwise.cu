// Values one by one: what lies between products that are too large to end in an epilogue of their own.
#include "q8.cuh"

// y (rows, n) = the activation of gate (rows, gate_stride), times what it gates (rows, up_stride) if there is that, over
// divisors (n) if there are some; as floats, quantized (n a multiple of 32), or as bf16, where they are asked for: block
// (row, part). Four numbers are those of xIELU (Huang and Schlag 2024, arXiv 2411.13010): positive x^2 + linear x on the right, else
// negative (e^min(x, eps) - 1 - x) + linear x.
extern "C" __global__ void __launch_bounds__(256) activate_rows(
    const float* gate, u32 gate_stride, const float* up, u32 up_stride, u32 n, u32 activation, float positive,
    float negative, float linear, float eps, const float* divisors, float* y, Q8* q8, u16* bf16
) {
    const u32 XIELU = CLAMPED + 1;
    u64 row = blockIdx.x;
    u32 i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = gate[row * gate_stride + i], v;
    if (activation == XIELU) {
        v = linear * x + (x > 0.0f ? positive * x * x : negative * (expm1f(at_most(x, eps)) - x));
    } else {
        v = activate(int(activation), x);
    }
    if (up) v *= gate_of(int(activation), up[row * up_stride + i]);
    if (divisors) v /= divisors[i];
    u64 at = row * n + i;
    if (y) y[at] = v;
    if (q8) quantize_q8(v, q8 + at / 32);
    if (bf16) bf16[at] = float_to_bf16(v);
}

// Row r (rows, n) = weights[r] times row r / share of x, in the same forms: block (row, part).
extern "C" __global__ void __launch_bounds__(256) weigh_rows(
    const float* x, u32 n, u32 share, const float* weights, float* y, Q8* q8, u16* bf16
) {
    u64 row = blockIdx.x;
    u32 i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = weights[row] * x[row / share * n + i];
    u64 at = row * n + i;
    if (y) y[at] = v;
    if (q8) quantize_q8(v, q8 + at / 32);
    if (bf16) bf16[at] = float_to_bf16(v);
}

// y (n) = y + factor * x.
extern "C" __global__ void __launch_bounds__(256) add_values(const float* x, float factor, u64 n, float* y) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] += factor * x[i];
}

// Logits (n): x = cap * tanh(factor * x / cap), or factor * x where the cap is 0.
extern "C" __global__ void __launch_bounds__(256) scale_values(float* x, u64 n, float factor, float cap) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = factor * x[i];
    x[i] = cap > 0.0f ? cap * tanh_of(v / cap) : v;
}

// y (n), in double precision, gains the sum of the rows x (rows, stride): the pooled values of a text.
extern "C" __global__ void __launch_bounds__(128) sum_rows(const float* x, u32 stride, u32 rows, u32 n, double* y) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double sum = 0.0;
#pragma unroll 8
    for (u64 row = 0; row < rows; row++) sum += double(x[row * stride + i]);
    y[i] += sum;
}
