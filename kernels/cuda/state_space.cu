// Selective state spaces (Gu and Dao 2023, arXiv 2312.00752; Dao and Gu 2024, arXiv 2405.21060): of each channel
//
//     state = exp(dt a) state + dt x b;  y = (state c + d x) silu(z)
//
// 1. A block takes 32 channels and a run of tokens. Eight lanes share a channel, each with every eighth value of its state,
//    which stays in registers from the first token to the last.
// 2. The results of a token come to one warp, which stores or quantizes them while the others go on.
#include "runs.cuh"

#define CHANNELS 32
#define LANES 8

struct StateSpace {
    const float* x;                // (tokens, channels)
    const float* dt;               // (tokens, dt_stride) of heads, before softplus
    u32 dt_stride;
    const float* dt_bias;          // (heads), or none
    const float* a;                // (heads), or (heads, d_state)
    u32 a_each;                    // whether there is one for each value of the state
    const float *b, *c;            // (tokens, bc_stride) of groups of d_state
    u32 bc_stride;
    const float* d;                // (heads)
    const float* z;                // (tokens, z_stride)
    u32 z_stride;
    u32 channels, head_dim, heads_of_group, d_state;
    float* states;                 // (sequences, channels, d_state)
    float* y;                      // (tokens, channels), each or none
    Q8* q8;
    u16* bf16;
};

// V: values of a channel that a lane has.
template <int V>
__device__ __forceinline__ void scan(const StateSpace& s, const Run& run) {
    __shared__ float results[2][CHANNELS];
    int lane = threadIdx.x % LANES, of_block = threadIdx.x / LANES;
    u32 channel = blockIdx.x * CHANNELS + of_block, head = channel / s.head_dim;
    u32 group = head / s.heads_of_group;
    float* states = s.states + (u64(run.sequence) * s.channels + channel) * s.d_state;
    const float* a = s.a + u64(head) * (s.a_each ? s.d_state : 1);
    float state[V], rate[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        u32 i = lane + j * LANES;
        bool is = i < s.d_state;
        state[j] = is && run.continues ? states[i] : 0.0f;
        rate[j] = s.a_each ? (is ? a[i] : 0.0f) : *a;
    }
    float bias = s.dt_bias ? s.dt_bias[head] : 0.0f, d = s.d[head];
#pragma unroll 1
    for (u32 t = run.start; t < run.end; t++) {
        float x = s.x[u64(t) * s.channels + channel];
        float dt = softplus(s.dt[u64(t) * s.dt_stride + head] + bias);
        float input = x * dt, decay = expf(dt * rate[0]), sum = 0.0f;
        u64 of_group = u64(t) * s.bc_stride + group * s.d_state;
#pragma unroll
        for (int j = 0; j < V; j++) {
            u32 i = lane + j * LANES;
            if (i >= s.d_state) break;
            if (s.a_each && j > 0) decay = expf(dt * rate[j]);
            state[j] = state[j] * decay + input * s.b[of_group + i];
            sum += state[j] * s.c[of_group + i];
        }
#pragma unroll
        for (int i = LANES / 2; i > 0; i /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, i);
        // two rows by turns, so that one barrier a token suffices
        float* row = results[t % 2];
        if (lane == 0) row[of_block] = (sum + d * x) * swish(s.z[u64(t) * s.z_stride + channel], 1.0f);
        __syncthreads();
        if (threadIdx.x < CHANNELS) {
            u64 at = u64(t) * s.channels + blockIdx.x * CHANNELS + threadIdx.x;
            float v = row[threadIdx.x];
            if (s.y) s.y[at] = v;
            if (s.q8) quantize_q8(v, s.q8 + at / 32);
            if (s.bf16) s.bf16[at] = float_to_bf16(v);
        }
    }
#pragma unroll
    for (int j = 0; j < V; j++) {
        u32 i = lane + j * LANES;
        if (i < s.d_state) states[i] = state[j];
    }
}

#define ENTRY(V)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(CHANNELS* LANES) state_space_##V(                                    \
        const float* x, const float* dt, u32 dt_stride, const float* dt_bias, const float* a, u32 a_each,             \
        const float* b, const float* c, u32 bc_stride, const float* d, const float* z, u32 z_stride, u32 channels,    \
        u32 head_dim, u32 heads_of_group, u32 d_state, const u32* starts, const u32* positions, const u32* sequences, \
        float* states, float* y, Q8* q8, u16* bf16                                                                    \
    ) {                                                                                                               \
        Run run = this_run({starts, positions, sequences});                                                           \
        if (run.start == run.end) return;                                                                             \
        scan<V>({x, dt, dt_stride, dt_bias, a, a_each, b, c, bc_stride, d, z, z_stride, channels, head_dim,           \
            heads_of_group, d_state, states, y, q8, bf16}, run);                                                      \
    }

ENTRY(2)
ENTRY(4)
ENTRY(8)
ENTRY(16)
ENTRY(32)
