// Attention of single tokens over the cache, limited by the speed of memory (flash decoding).
//
// 1. A block takes a token, a key/value head with up to GROUP of the query heads that share it, and a share of the pages
//    that the token sees: so keys and values are read once for all those heads, and a long context keeps all
//    multiprocessors busy. The grid does not depend on the position, which is read from memory: one captured graph serves
//    every step.
// 2. Page by page: eight lanes share a key; the scores of a page lie in shared memory; a running maximum and sum of each
//    head; then each thread adds up eight values of some of the positions.
// 3. The last block of a token's heads to arrive combines the shares.
#include "kv.cuh"

#define THREADS 128

struct Attention {
    const float* q;       // (tokens, q_stride), heads q_head_stride apart
    u32 q_stride, q_head_stride;
    const u8 *keys, *values;
    const u32 *positions, *sequences, *pages;
    u32 max_pages;
    u32 n_head_kv, group, dim_k, dim_v;
    float scale, softcap;  // no cap where it is 0
    u32 window, chunked;   // none where it is 0; whether it begins at a multiple of that many
    u32 both_ways;         // all positions, where tokens see those behind them
    const float *slopes, *sinks;  // (heads), or none
    const float* gates;    // results are multiplied with their sigmoid; heads gate_head_stride apart, or none
    u32 gate_stride, gate_head_stride;
    float* parts;          // (tokens, heads, shares, dim_v + 2)
    u32* counters;         // (tokens, blocks of heads), 0
    float* y;              // (tokens, heads, dim_v), or none
    Q8* q8;                // the same, or none
};

template <int GROUP>
struct Shared {
    float scores[GROUP][PAGE];
    float max[GROUP], sum[GROUP], factor[GROUP];
};

// Scores of the page's positions, 0 where nothing is to be seen.
template <int GROUP, int KEYS>
__device__ __forceinline__ void score_page(
    const Attention& a, Shared<GROUP>& s, const float* q, const u8* page, u32 first, u32 begin, u32 end, u32 head
) {
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 bytes = row_bytes(KEYS, a.dim_k);
#pragma unroll 1
    for (u32 round = 0; round < 4; round++) {
        u32 i = warp * 16 + round * 4 + lane / 8;
        u32 position = first + i;
        float sum[GROUP] = {};
        bool is = position >= begin && position < end;
        if (is) {
#pragma unroll 1
            for (u32 d = lane % 8 * 8; d < a.dim_k; d += 64) {
                float k[8];
                load_8<KEYS>(page + u64(i) * bytes, a.dim_k, d, k);
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    const float4* v = reinterpret_cast<const float4*>(q + g * a.dim_k + d);
                    float4 x = v[0], y = v[1];
                    sum[g] += k[0] * x.x + k[1] * x.y + k[2] * x.z + k[3] * x.w + k[4] * y.x + k[5] * y.y + k[6] * y.z + k[7] * y.w;
                }
            }
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
#pragma unroll
            for (int d = 4; d > 0; d /= 2) sum[g] += __shfl_xor_sync(ALL_LANES, sum[g], d);
            if (lane % 8 == g) {
                float score = sum[g];
                if (a.softcap > 0.0f) score = a.softcap * tanh_of(score / a.softcap);
                if (a.slopes && head + g < a.n_head_kv * a.group) score += a.slopes[head + g] * float(position);
                s.scores[g][i] = is ? score : -3.402823466e38f;
            }
        }
    }
}

// Scores become weights relative to the largest so far.
template <int GROUP>
__device__ __forceinline__ void weigh_page(Shared<GROUP>& s, u32 first, u32 begin, u32 end) {
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (u32 g = warp; g < GROUP; g += THREADS / WARP) {
        float a = s.scores[g][lane], b = s.scores[g][lane + 32];
        float before = s.max[g], max = fmaxf(before, warp_max(fmaxf(a, b)));
        u32 p = first + lane;
        a = p >= begin && p < end ? expf(a - max) : 0.0f;
        b = p + 32 >= begin && p + 32 < end ? expf(b - max) : 0.0f;
        s.scores[g][lane] = a, s.scores[g][lane + 32] = b;
        float sum = warp_sum(a + b);
        __syncwarp();
        if (lane == 0) {
            float factor = expf(before - max);
            s.factor[g] = factor;
            s.sum[g] = s.sum[g] * factor + sum;
            s.max[g] = max;
        }
    }
}

// Adds up the shares of the block's heads.
__device__ __forceinline__ void combine(const Attention& a, u64 t, u32 head, u32 heads) {
    u32 n_head = a.n_head_kv * a.group, shares = gridDim.x, length = a.dim_v + 2;
#pragma unroll 1
    for (u32 g = 0; g < heads; g++) {
        const float* parts = a.parts + (t * n_head + head + g) * shares * length;
        float max = a.sinks ? a.sinks[head + g] : -3.402823466e38f;
#pragma unroll 1
        for (u32 i = 0; i < shares; i++) {
            if (__ldcg(parts + i * length + 1) > 0.0f) max = fmaxf(max, __ldcg(parts + i * length));
        }
        float sum = a.sinks ? expf(a.sinks[head + g] - max) : 0.0f;
#pragma unroll 1
        for (u32 i = 0; i < shares; i++) {
            float part = __ldcg(parts + i * length + 1);
            // of a share without positions nothing but this sum was written; a NaN counts
            if (!(part == 0.0f)) sum += part * expf(__ldcg(parts + i * length) - max);
        }
#pragma unroll 1
        for (u32 d = threadIdx.x; d < a.dim_v; d += THREADS) {
            float value = 0.0f;
#pragma unroll 1
            for (u32 i = 0; i < shares; i++) {
                float part = __ldcg(parts + i * length + 1);
                if (!(part == 0.0f)) value += expf(__ldcg(parts + i * length) - max) * __ldcg(parts + i * length + 2 + d);
            }
            value /= sum;
            if (a.gates) {
                float gate = a.gates[t * a.gate_stride + (head + g) * a.gate_head_stride + d];
                value /= 1.0f + expf(-gate);
            }
            u64 at = (t * n_head + head + g) * a.dim_v + d;
            if (a.y) a.y[at] = value;
            if (a.q8) quantize_q8(value, a.q8 + at / 32);
        }
    }
}

template <int GROUP, int KEYS, int VALUES>
__device__ __forceinline__ void attend(const Attention& a) {
    extern __shared__ float4 room[];  // (GROUP, dim_k) queries, then (GROUP, dim_v) sums
    __shared__ Shared<GROUP> s;
    float* q = reinterpret_cast<float*>(room);
    u32 blocks_of_head = ceil_div(a.group, GROUP);
    u32 kv_head = blockIdx.y / blocks_of_head, of_group = blockIdx.y % blocks_of_head * GROUP;
    u32 head = kv_head * a.group + of_group, heads = min(a.group - of_group, u32(GROUP));
    u64 t = blockIdx.z;
    u32 n_head = a.n_head_kv * a.group, length = a.dim_v + 2;

    // what the token sees: [begin, end); of a window both ways a half is on each side
    u32 position = a.positions[t], aside = a.both_ways ? a.window / 2 : a.window - 1;
    u32 begin = a.chunked ? position / a.window * a.window : a.window && position > aside ? position - aside : 0;
    u32 end = !a.both_ways ? position + 1 : a.window ? min(a.both_ways, position + aside + 1) : a.both_ways;
    u32 first_page = begin / PAGE, n_pages = ceil_div(end, PAGE) - first_page;
    u32 each = ceil_div(n_pages, gridDim.x);
    u32 from = first_page + blockIdx.x * each, to = min(from + each, first_page + n_pages);
    float* part = a.parts + ((t * n_head + head) * gridDim.x + blockIdx.x) * length;

#pragma unroll 1
    for (u32 i = threadIdx.x; i < GROUP * a.dim_k; i += THREADS) {
        u32 g = i / a.dim_k, d = i % a.dim_k;
        q[i] = g < heads ? a.q[t * a.q_stride + (head + g) * a.q_head_stride + d] * a.scale : 0.0f;
    }
    if (threadIdx.x < GROUP) s.max[threadIdx.x] = -3.402823466e38f, s.sum[threadIdx.x] = 0.0f;
    __syncthreads();

    u32 columns = a.dim_v / 8, sharers = THREADS / columns;
    u32 column = threadIdx.x % columns, sharer = threadIdx.x / columns;
    float sums[GROUP][8] = {};
    const u32* pages = a.pages + u64(a.sequences[t]) * a.max_pages;
    for (u32 p = from; p < to; p++) {
        u64 row = (u64(pages[p]) * a.n_head_kv + kv_head) * PAGE;
        u32 first = p * PAGE;
        score_page<GROUP, KEYS>(a, s, q, a.keys + row * row_bytes(KEYS, a.dim_k), first, begin, end, head);
        __syncthreads();
        weigh_page<GROUP>(s, first, begin, end);
        __syncthreads();
        if (sharer < sharers) {
            u32 bytes = row_bytes(VALUES, a.dim_v);
            const u8* page = a.values + row * bytes;
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
#pragma unroll
                for (int j = 0; j < 8; j++) sums[g][j] *= s.factor[g];
            }
            u32 skip = begin > first ? begin - first : 0, n = min(end - first, u32(PAGE));
#pragma unroll 1
            for (u32 i = skip + sharer; i < n; i += sharers) {
                float v[8];
                load_8<VALUES>(page + u64(i) * bytes, a.dim_v, column * 8, v);
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    float w = s.scores[g][i];
#pragma unroll
                    for (int j = 0; j < 8; j++) sums[g][j] += w * v[j];
                }
            }
        }
        __syncthreads();
    }
    // the sums of those who share a column, one after the other
    float* total = q + GROUP * a.dim_k;
    for (u32 turn = 0; from < to && turn < sharers; turn++) {
        if (sharer == turn) {
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    float* at = total + g * a.dim_v + column * 8 + j;
                    *at = turn == 0 ? sums[g][j] : *at + sums[g][j];
                }
            }
        }
        __syncthreads();
    }
    for (u32 g = 0; g < heads; g++, part += gridDim.x * length) {
        if (threadIdx.x == 0) part[0] = s.max[g], part[1] = s.sum[g];
        if (from < to) {
#pragma unroll 1
            for (u32 d = threadIdx.x; d < a.dim_v; d += THREADS) part[2 + d] = total[g * a.dim_v + d];
        }
    }
    if (arrives_last(a.counters + t * gridDim.y + blockIdx.y, gridDim.x)) combine(a, t, head, heads);
}

#define ENTRY(keys, values, KEYS, VALUES, GROUP)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_##keys##_##values##_##GROUP(                      \
        const float* q, u32 q_stride, u32 q_head_stride, const u8* k, const u8* v, const u32* positions,              \
        const u32* sequences, const u32* pages, u32 max_pages, u32 n_head_kv, u32 group, u32 dim_k, u32 dim_v,        \
        float scale, float softcap, u32 window, u32 chunked, u32 both_ways, const float* slopes, const float* sinks,  \
        const float* gates, u32 gate_stride, u32 gate_head_stride, float* parts, u32* counters, float* y, Q8* q8      \
    ) {                                                                                                               \
        attend<GROUP, KEYS, VALUES>({q, q_stride, q_head_stride, k, v, positions, sequences, pages, max_pages,        \
            n_head_kv, group, dim_k, dim_v, scale, softcap, window, chunked, both_ways, slopes, sinks, gates, gate_stride, \
            gate_head_stride, parts, counters, y, q8});                                                               \
    }
#define ENTRIES(keys, values, KEYS, VALUES)                                                        \
    ENTRY(keys, values, KEYS, VALUES, 1) ENTRY(keys, values, KEYS, VALUES, 4) ENTRY(keys, values, KEYS, VALUES, 8)

ENTRIES(f16, f16, KV_F16, KV_F16)
ENTRIES(q8_0, q8_0, KV_Q8_0, KV_Q8_0)
ENTRIES(f16, q8_0, KV_F16, KV_Q8_0)
ENTRIES(q8_0, f16, KV_Q8_0, KV_F16)
