// Between the matrices of queries, keys and values and attention: normalization of heads, rotation, the cache.
#include "heads.cuh"

// Cosines and sines of the angles by which the pairs of each token's heads turn: thread (pair, token). `turns` are turns a
// position. In double precision up to the whole turns, which are dropped.
extern "C" __global__ void rotations(const double* turns, u32 n_pairs, float magnitude, const u32* positions, float* cosines, float* sines) {
    u32 pair = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (pair >= n_pairs) return;
    double angle = turns[pair] * double(positions[t]);
    float half_turns = float(2.0 * (angle - rint(angle)));
    float sine, cosine;
    sincospif(half_turns, &sine, &cosine);
    cosines[u64(t) * n_pairs + pair] = cosine * magnitude;
    sines[u64(t) * n_pairs + pair] = sine * magnitude;
}

// Block (head, token), of queries, then keys, then values. Dynamic shared memory: the larger head in floats.
extern "C" __global__ void __launch_bounds__(128) finish_heads(HEADS_PARAMETERS) {
    extern __shared__ float x[];
    finish_head(HEADS_ARGUMENTS, blockIdx.x, blockIdx.y, x);
}
