// Values one by one: what lies between products that are too large to end in an epilogue of their own.
#include "q8.cuh"

// y (n) = the activation of gate, times what it gates if there is that; as floats, quantized (n a multiple of 32), or as
// bf16, where they are asked for.
extern "C" __global__ void __launch_bounds__(256) activate_values(
    const float* gate, const float* up, u64 n, u32 activation, float* y, Q8* q8, u16* bf16
) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = activate(int(activation), gate[i]);
    if (up) v *= gate_of(int(activation), up[i]);
    if (y) y[i] = v;
    if (q8) quantize_q8(v, q8 + i / 32);
    if (bf16) bf16[i] = float_to_bf16(v);
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
