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

// Block (head, token) of latent attention. A query's part that turns goes behind what the maps of keys made of the rest, in y
// (tokens, heads, rank + rope). The block behind the heads normalizes what keys and values are made of, turns what is the same
// in all keys, and stores both in the cache, as a key of rank + rope and a value of rank numbers. Dynamic shared memory:
// rank + rope floats.
extern "C" __global__ void __launch_bounds__(128) finish_latent(
    const float* q, u32 q_stride, u32 n_head, u32 nope, u32 rope, u32 rank,    // (tokens, q_stride): heads of nope + rope
    const float* kv, u32 kv_stride, u32 norm_kind, float norm_eps, const float* norm_weight,  // (tokens, kv_stride)
    const float* cosines, const float* sines, u32 n_pairs, u32 halves, float temperature, u32 temperature_every,
    u32 temperature_offset, const u32* positions, const u32* sequences, const u32* pages, u32 max_pages,
    u8* keys, u8* values, u32 key_type, u32 value_type, float* y
) {
    extern __shared__ float x[];
    u32 head = blockIdx.x, position = positions[blockIdx.y];
    u64 t = blockIdx.y;
    cosines += t * n_pairs, sines += t * n_pairs;
    if (head < n_head) {
        const float* from = q + t * q_stride + head * (nope + rope) + nope;
        for (u32 i = threadIdx.x; i < rope; i += blockDim.x) x[i] = from[i];
        __syncthreads();
        rotate_shared(x, cosines, sines, n_pairs, halves);
        float factor = query_factor(temperature, temperature_every, temperature_offset, position);
        float* to = y + (t * n_head + head) * (rank + rope);
        for (u32 i = threadIdx.x; temperature_every && i < rank; i += blockDim.x) to[i] *= factor;
        for (u32 i = threadIdx.x; i < rope; i += blockDim.x) to[rank + i] = x[i] * factor;
        return;
    }
    const float* from = kv + t * kv_stride;
    for (u32 i = threadIdx.x; i < rank + rope; i += blockDim.x) x[i] = from[i];
    __syncthreads();
    normalize_shared(x, rank, {int(norm_kind), norm_eps, norm_weight, nullptr});
    rotate_shared(x + rank, cosines, sines, n_pairs, halves);
    u64 row = cache_row(pages + u64(sequences[t]) * max_pages, position, 0, 1);
    store_row(keys, key_type, row, rank + rope, x);
    store_row(values, value_type, row, rank, x);
}
