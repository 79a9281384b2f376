// What happens to queries, keys and values between their matrices and attention: normalization, rotation, the cache.
#pragma once
#include "kv.cuh"
#include "norm.cuh"

enum Place { NEVER, BEFORE_ROTATION, AFTER_ROTATION };

struct Heads {
    float* q;                   // (tokens, q_stride), heads q_head_stride apart; finished in place
    u32 q_stride, q_head_stride;
    float *k, *v;               // (tokens, stride), heads one behind the other
    u32 k_stride, v_stride;
    u32 n_head, n_head_kv, dim_k, dim_v;
    float clamp;                // none where it is 0
    u32 norm_kind;
    float norm_eps;
    u32 norm_place;
    const float *q_norm, *k_norm;
    u32 norm_head_stride;       // 0 where all heads have the same weights
    const float* v_norm;        // by the root mean square; or none
    float v_norm_eps;
    const float *cosines, *sines;  // (tokens, n_pairs)
    u32 n_pairs, halves;
    float temperature;
    u32 temperature_every, temperature_offset;  // none where the former is 0
    const u32 *positions, *sequences, *pages;
    u32 max_pages;
    u8 *keys, *values;
    u32 key_type, value_type;
};

// The parameters of a kernel, in the order of the fields.
#define HEADS_PARAMETERS                                                                                              \
    float *q, u32 q_stride, u32 q_head_stride, float *k, u32 k_stride, float *v, u32 v_stride, u32 n_head,              \
        u32 n_head_kv, u32 dim_k, u32 dim_v, float clamp, u32 norm_kind, float norm_eps, u32 norm_place,              \
        const float *q_norm, const float *k_norm, u32 norm_head_stride, const float *v_norm, float v_norm_eps,        \
        const float *cosines, const float *sines, u32 n_pairs, u32 halves, float temperature, u32 temperature_every,  \
        u32 temperature_offset, const u32 *positions, const u32 *sequences, const u32 *pages, u32 max_pages,          \
        u8 *keys, u8 *values, u32 key_type, u32 value_type
#define HEADS_ARGUMENTS                                                                                               \
    {                                                                                                                 \
        q, q_stride, q_head_stride, k, v, k_stride, v_stride, n_head, n_head_kv, dim_k, dim_v, clamp, norm_kind,      \
            norm_eps, norm_place, q_norm, k_norm, norm_head_stride, v_norm, v_norm_eps, cosines, sines, n_pairs,      \
            halves, temperature, temperature_every, temperature_offset, positions, sequences, pages, max_pages, keys, \
            values, key_type, value_type                                                                              \
    }

// A block rotates the pairs of a head in shared memory by angles of these cosines and sines.
__device__ __forceinline__ void rotate_shared(float* x, const float* cosines, const float* sines, u32 n_pairs, u32 halves) {
    for (u32 i = threadIdx.x; i < n_pairs; i += blockDim.x) {
        float c = cosines[i], s = sines[i];
        u32 first = halves ? i : 2 * i, second = halves ? i + n_pairs : 2 * i + 1;
        float one = x[first], other = x[second];
        x[first] = one * c - other * s;
        x[second] = one * s + other * c;
    }
    __syncthreads();
}

// What a query at this position is multiplied with; 1 where `every` is 0.
__device__ __forceinline__ float query_factor(float temperature, u32 every, u32 offset, u32 position) {
    return every ? 1.0f + temperature * log1pf(float((position + offset) / every)) : 1.0f;
}

// A block finishes a head of token t, of queries, then keys, then values: in shared memory `x`, then back to the queries or
// into the cache. Values are read past the first cache, so that others may have written them in this launch.
__device__ __forceinline__ void finish_head(const Heads& a, u32 head, u64 t, float* x) {
    bool is_query = head < a.n_head, is_key = !is_query && head < a.n_head + a.n_head_kv;
    u32 of_kind = is_query ? head : is_key ? head - a.n_head : head - a.n_head - a.n_head_kv;
    u32 dim = is_query || is_key ? a.dim_k : a.dim_v;
    const float* from = is_query ? a.q + t * a.q_stride + of_kind * a.q_head_stride
        : is_key                 ? a.k + t * a.k_stride + of_kind * a.dim_k
                                 : a.v + t * a.v_stride + of_kind * a.dim_v;
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        float value = __ldcg(from + i);
        x[i] = a.clamp > 0.0f ? fminf(fmaxf(value, -a.clamp), a.clamp) : value;
    }
    __syncthreads();
    u32 position = a.positions[t];
    if (is_query || is_key) {
        const float* weight = (is_query ? a.q_norm : a.k_norm) + of_kind * a.norm_head_stride;
        Norm norm = {int(a.norm_kind), a.norm_eps, weight, nullptr};
        if (a.norm_place == BEFORE_ROTATION) normalize_shared(x, dim, norm);
        rotate_shared(x, a.cosines + t * a.n_pairs, a.sines + t * a.n_pairs, a.n_pairs, a.halves);
        if (a.norm_place == AFTER_ROTATION) normalize_shared(x, dim, norm);
    } else if (a.v_norm) {
        normalize_shared(x, dim, {RMS_NORM, a.v_norm_eps, a.v_norm, nullptr});
    }
    if (is_query) {
        float factor = query_factor(a.temperature, a.temperature_every, a.temperature_offset, position);
        float* to = a.q + t * a.q_stride + of_kind * a.q_head_stride;
        for (u32 i = threadIdx.x; i < dim; i += blockDim.x) to[i] = x[i] * factor;
    } else {
        u64 row = cache_row(a.pages + u64(a.sequences[t]) * a.max_pages, position, of_kind, a.n_head_kv);
        store_row(is_key ? a.keys : a.values, is_key ? a.key_type : a.value_type, row, dim, x);
    }
}
