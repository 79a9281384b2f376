// Between the matrices of queries, keys and values and attention: normalization of heads, rotation, the cache.
#include "kv.cuh"
#include "norm.cuh"

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

enum Place { NEVER, BEFORE_ROTATION, AFTER_ROTATION };

// Block (head, token), of queries, then keys, then values: finishes the head's values in shared memory, then writes queries
// back and keys and values into the cache. Queries lie q_head_stride apart, those of a token q_stride; keys and values as
// one another. Dynamic shared memory: the larger head in floats.
extern "C" __global__ void __launch_bounds__(128) finish_heads(
    float* q, u32 q_stride, u32 q_head_stride, const float* k, u32 k_stride, const float* v, u32 v_stride,
    u32 n_head, u32 n_head_kv, u32 dim_k, u32 dim_v, float clamp,
    u32 norm_kind, float norm_eps, u32 norm_place, const float* q_norm, const float* k_norm, u32 norm_head_stride,
    const float* cosines, const float* sines, u32 n_pairs, u32 halves, float temperature, u32 temperature_every,
    const u32* positions, const u32* sequences, const u32* pages, u32 max_pages,
    u8* keys, u8* values, u32 key_type, u32 value_type
) {
    extern __shared__ float x[];
    u32 head = blockIdx.x;
    u64 t = blockIdx.y;
    bool is_query = head < n_head, is_key = !is_query && head < n_head + n_head_kv;
    u32 of_kind = is_query ? head : is_key ? head - n_head : head - n_head - n_head_kv;
    u32 dim = is_query || is_key ? dim_k : dim_v;
    const float* from = is_query ? q + t * q_stride + of_kind * q_head_stride
        : is_key                 ? k + t * k_stride + of_kind * dim_k
                                 : v + t * v_stride + of_kind * dim_v;
    for (u32 i = threadIdx.x; i < dim; i += blockDim.x) {
        float value = from[i];
        x[i] = clamp > 0.0f ? fminf(fmaxf(value, -clamp), clamp) : value;
    }
    __syncthreads();
    u32 position = positions[t];
    if (is_query || is_key) {
        Norm norm = {int(norm_kind), norm_eps, (is_query ? q_norm : k_norm) + of_kind * norm_head_stride, nullptr};
        if (norm_place == BEFORE_ROTATION) normalize_shared(x, dim, norm);
        for (u32 i = threadIdx.x; i < n_pairs; i += blockDim.x) {
            float c = cosines[t * n_pairs + i], s = sines[t * n_pairs + i];
            u32 a = halves ? i : 2 * i, b = halves ? i + n_pairs : 2 * i + 1;
            float xa = x[a], xb = x[b];
            x[a] = xa * c - xb * s;
            x[b] = xa * s + xb * c;
        }
        __syncthreads();
        if (norm_place == AFTER_ROTATION) normalize_shared(x, dim, norm);
    }
    if (is_query) {
        float factor = temperature_every ? 1.0f + temperature * log1pf(float(position / temperature_every)) : 1.0f;
        float* to = q + t * q_stride + of_kind * q_head_stride;
        for (u32 i = threadIdx.x; i < dim; i += blockDim.x) to[i] = x[i] * factor;
    } else {
        u64 row = cache_row(pages + u64(sequences[t]) * max_pages, position, of_kind, n_head_kv);
        store_row(is_key ? keys : values, is_key ? key_type : value_type, row, dim, x);
    }
}
