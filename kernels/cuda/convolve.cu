// Causal convolutions over the last tokens, of each channel by itself (mamba, delta nets, LFM2).
//
// A block takes 128 channels and up to TOKENS tokens of a run. What lies before a run is in the sequence's past, the last
// token's inputs last; the block of a run's first tokens alone reads and renews it, because no other reaches back so far.
#include "runs.cuh"

#define TOKENS 32

extern "C" __global__ void __launch_bounds__(128) convolve(
    const float* x, u32 x_stride, const float* gates,  // (tokens, x_stride); x is multiplied with the gates, if there are any
    const float* kernel, u32 width, u32 channels,      // (width, channels), the last token's row last
    const float* bias, u32 activated,                  // (channels), or none; whether SiLU follows
    const float* out_gates,                            // as x lies: results are multiplied with them; or none
    const u32* starts, const u32* positions, const u32* sequences, float* past,  // (sequences, width - 1, channels)
    float* y, Q8* q8, u16* bf16                        // (tokens, channels), each or none
) {
    Run run = this_run({starts, positions, sequences});
    u32 channel = blockIdx.x * blockDim.x + threadIdx.x;
    int n = int(run.end) - int(run.start), before = int(width) - 1, first = int(blockIdx.z) * TOKENS;
    if (first >= n || channel >= channels) return;
    past += u64(run.sequence) * before * channels + channel;
    // of token i of the run, negative for those before it
    auto input = [&](int i) {
        if (i < 0) return run.continues ? past[u64(before + i) * channels] : 0.0f;
        u64 at = u64(run.start + i) * x_stride + channel;
        return gates ? x[at] * gates[at] : x[at];
    };
#pragma unroll 1
    for (int i = first; i < min(n, first + TOKENS); i++) {
        float sum = 0.0f;
#pragma unroll 1
        for (int j = 0; j < int(width); j++) sum += input(i + j - before) * kernel[u64(j) * channels + channel];
        if (bias) sum += bias[channel];
        if (activated) sum = swish(sum, 1.0f);
        u64 token = run.start + i;
        if (out_gates) sum *= out_gates[token * x_stride + channel];
        u64 at = token * channels + channel;
        if (y) y[at] = sum;
        if (q8) quantize_q8(sum, q8 + at / 32);
        if (bf16) bf16[at] = float_to_bf16(sum);
    }
    // from the oldest on, so that what moves is not yet overwritten
    for (int j = 0; first == 0 && j < before; j++) {
        float moved = input(n + j - before);
        past[u64(j) * channels] = moved;
    }
}
