// Gated delta nets (Yang et al. 2024, arXiv 2412.06464; Kimi Linear, arXiv 2510.26692): of each head
//
//     S = decay S;  S = S + k (beta (v - k S));  y = q S         decay = exp(a softplus(...)), beta = sigmoid(...)
//
// A warp takes four columns of a head's state, those of four values, and a run of tokens. Its lanes share the numbers of a
// key, so that a column never leaves their registers, sums are exchanged by shuffles alone, and no warp waits for another.
#include "norm.cuh"
#include "runs.cuh"

#define COLUMNS 4
#define WARPS 4

struct DeltaNet {
    const float* x;                    // (tokens, x_stride): heads of q, of k, of v
    u32 x_stride, n_head, n_head_k;
    u32 neighbours;                    // whether neighbours share q and k, and not every n_head_k-th
    Norm q_norm, k_norm;               // by the root mean square
    const float *b, *a;                // (tokens, stride): of head h at h / per * distance + h % per
    u32 b_stride, a_stride, per, distance;
    u32 fine;                          // a of each number of a key, heads one behind the other
    const float *rate, *a_bias;        // (heads); of each a
    float* states;                     // (sequences, heads, value, key)
    float* y;                          // (tokens, heads, value)
};

// The numbers of a key of K * 32 that a lane has, normalized.
template <int K>
__device__ __forceinline__ void load_key(const float* x, const Norm& norm, int lane, float (&to)[K]) {
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < K; j++) {
        to[j] = x[j * WARP + lane];
        squares += to[j] * to[j];
    }
    float scale = 1.0f / sqrtf(warp_sum(squares) / (K * WARP) + norm.eps);
#pragma unroll
    for (int j = 0; j < K; j++) to[j] = to[j] * scale * norm.weight[j * WARP + lane];
}

template <int K>
__device__ __forceinline__ void apply_rule(const DeltaNet& m, const Run& run) {
    const u32 DIM = K * WARP, BLOCKS = DIM / (WARPS * COLUMNS);  // blocks of a head
    int lane = threadIdx.x % WARP;
    u32 head = blockIdx.x / BLOCKS, column = (blockIdx.x % BLOCKS * WARPS + threadIdx.x / WARP) * COLUMNS;
    u32 of_keys = m.neighbours ? head / (m.n_head / m.n_head_k) : head % m.n_head_k;
    u32 place = head / m.per * m.distance + head % m.per;
    float* states = m.states + ((u64(run.sequence) * m.n_head + head) * DIM + column) * DIM + lane;
    float state[COLUMNS][K];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
        for (int j = 0; j < K; j++) state[c][j] = run.continues ? states[c * DIM + j * WARP] : 0.0f;
    }
    float rate = m.rate[head];
#pragma unroll 1
    for (u32 t = run.start; t < run.end; t++) {
        const float* x = m.x + u64(t) * m.x_stride;
        float q[K], k[K], decay[K];
        load_key<K>(x + of_keys * DIM, m.q_norm, lane, q);
        load_key<K>(x + (m.n_head_k + of_keys) * DIM, m.k_norm, lane, k);
        float v = x[(2 * m.n_head_k + head) * DIM + column + lane % COLUMNS];
        float beta = sigmoid(m.b[u64(t) * m.b_stride + place]);
        const float* a = m.a + u64(t) * m.a_stride;
        auto decay_of = [&](u32 i, u32 of_bias) { return expf(rate * softplus(a[i] + m.a_bias[of_bias])); };
        float of_all = m.fine ? 0.0f : decay_of(place, head);
#pragma unroll
        for (int j = 0; j < K; j++) {
            u32 i = head * DIM + j * WARP + lane;
            decay[j] = m.fine ? decay_of(i, i) : of_all;
        }
        float held[COLUMNS] = {}, sums[COLUMNS] = {};
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int j = 0; j < K; j++) {
                state[c][j] *= decay[j];
                held[c] += state[c][j] * k[j];
            }
            held[c] = warp_sum(held[c]);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            float delta = beta * (__shfl_sync(ALL_LANES, v, c) - held[c]);
#pragma unroll
            for (int j = 0; j < K; j++) {
                state[c][j] += k[j] * delta;
                sums[c] += state[c][j] * q[j];
            }
            sums[c] = warp_sum(sums[c]);
        }
        if (lane < COLUMNS) {
            float sum = lane == 0 ? sums[0] : lane == 1 ? sums[1] : lane == 2 ? sums[2] : sums[3];
            m.y[(u64(t) * m.n_head + head) * DIM + column + lane] = sum;
        }
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
        for (int j = 0; j < K; j++) states[c * DIM + j * WARP] = state[c][j];
    }
}

#define ENTRY(DIM)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP) delta_net_##DIM(                                        \
        const float* x, u32 x_stride, u32 n_head, u32 n_head_k, u32 neighbours, const float* q_weight, float q_eps,   \
        const float* k_weight, float k_eps, const float* b, u32 b_stride, const float* a, u32 a_stride, u32 per,      \
        u32 distance, u32 fine, const float* rate, const float* a_bias, const u32* starts, const u32* positions,      \
        const u32* sequences, float* states, float* y                                                                 \
    ) {                                                                                                               \
        Run run = this_run({starts, positions, sequences});                                                           \
        if (run.start == run.end) return;                                                                             \
        apply_rule<DIM / WARP>({x, x_stride, n_head, n_head_k, neighbours, {RMS_NORM, q_eps, q_weight, nullptr},      \
            {RMS_NORM, k_eps, k_weight, nullptr}, b, a, b_stride, a_stride, per, distance, fine, rate, a_bias,        \
            states, y}, run);                                                                                         \
    }

ENTRY(32)
ENTRY(64)
ENTRY(96)
ENTRY(128)
ENTRY(160)
ENTRY(192)
ENTRY(224)
ENTRY(256)

// A warp a head of a token: the head x (tokens, heads, dim), normalized by its root mean square, times the sigmoid or the
// SiLU of its gate; as floats, quantized (dim a multiple of 32), or as bf16, where they are asked for.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) gate_heads(
    const float* x, u32 tokens, u32 n_head, u32 dim, const float* weight, float eps, const float* z, u32 z_stride,
    u32 by_sigmoid, float* y, Q8* q8, u16* bf16
) {
    u64 row = u64(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (row >= u64(tokens) * n_head) return;
    u32 lane = threadIdx.x % WARP;
    z += row / n_head * z_stride + row % n_head * dim;
    x += row * dim;
    float squares = 0.0f;
    for (u32 i = lane; i < dim; i += WARP) squares += x[i] * x[i];
    float scale = 1.0f / sqrtf(warp_sum(squares) / dim + eps);
    for (u32 i = lane; i < dim; i += WARP) {
        float v = x[i] * scale * weight[i] * (by_sigmoid ? sigmoid(z[i]) : swish(z[i], 1.0f));
        u64 at = row * dim + i;
        if (y) y[at] = v;
        if (q8) quantize_q8(v, q8 + at / 32);
        if (bf16) bf16[at] = float_to_bf16(v);
    }
}
