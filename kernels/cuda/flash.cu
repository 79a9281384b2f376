// Attention of many tokens of one sequence, at neighbouring positions, on tensor cores (Dao 2023, arXiv 2307.08691).
//
// 1. A block takes 64 tokens of a query head, each of its four warps 16 of them. Queries, keys and values are in half
//    precision, sums in single.
// 2. It goes over the pages that any of its tokens sees; what no token sees is never read. Each row keeps a running maximum
//    and sum, and scales its results down when the maximum grows.
// 3. Weights of a page stay in registers: what one product leaves there is what the next one takes.
// 4. Rows of shared memory are 16 bytes longer than they need be, so that eight neighbouring rows lie in different banks.
#include "kv.cuh"
#include "tensor.cuh"

#define ROWS 64
#define THREADS 128
#define LOWEST -3.402823466e38f

struct Flash {
    const float* q;
    u32 q_stride, q_head_stride, tokens;
    const u8 *keys, *values;
    u32 key_type, value_type;
    const u32 *positions, *sequences, *pages;  // those of the first token count
    u32 max_pages, n_head_kv, group;
    float scale, softcap;                      // no cap where it is 0
    u32 window, chunked;                       // none where it is 0; whether it begins at a multiple of that many
    u32 both_ways;                             // all positions, where tokens see those behind them
    const float *slopes, *sinks;               // (heads), or none
    const float* gates;                        // (tokens, gate_stride), heads gate_head_stride apart, or none
    u32 gate_stride, gate_head_stride;
    float* y;                                  // (tokens, heads, D), or none
    u16* bf16;                                 // the same, or none
};

// D numbers from `first` on of N rows of `dim`, in half precision, zeros from `end` on.
template <int D, int N>
__device__ __forceinline__ void load_rows(
    u16 (*to)[D + 8], const u8* cache, u32 type, u32 dim, u32 first, u64 row, u32 position, u32 end
) {
    u32 bytes = row_bytes(type, dim);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < N * D / 8; i += THREADS) {
        u32 r = i / (D / 8), c = i % (D / 8) * 8;
        const u8* from = cache + (row + r) * bytes;
        bool is = position + r < end;
        if (type == KV_F16) {
            copy_16(&to[r][c], from + 2 * (first + c), is);
        } else {
            float v[8] = {};
            if (is) load_8<KV_Q8_0>(from, dim, first + c, v);
            uint4 halves = {floats_to_halves(v[0], v[1]), floats_to_halves(v[2], v[3]), floats_to_halves(v[4], v[5]),
                            floats_to_halves(v[6], v[7])};
            *reinterpret_cast<uint4*>(&to[r][c]) = halves;
        }
    }
}

// K numbers of a key, and V of a value: block z gives the z-th V.
template <int K, int V>
__device__ __forceinline__ void attend(const Flash& a) {
    const int N = K <= 128 ? 64 : 32;  // positions at a time
    extern __shared__ uint4 room[];
    u16(*q)[K + 8] = reinterpret_cast<u16(*)[K + 8]>(room);
    u16(*k)[K + 8] = q + ROWS;
    u16(*v)[V + 8] = reinterpret_cast<u16(*)[V + 8]>(k + N);
    u32 dim_v = V * gridDim.z, first_value = V * blockIdx.z;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 head = blockIdx.y, kv_head = head / a.group, n_head = a.n_head_kv * a.group;
    // blocks that see most come first
    u32 first = (gridDim.x - 1 - blockIdx.x) * ROWS;
    u32 base = a.positions[0], end_of_all = a.both_ways ? a.both_ways : base + a.tokens;
    const u32* pages = a.pages + u64(a.sequences[0]) * a.max_pages;

#pragma unroll 1
    for (u32 i = threadIdx.x; i < ROWS * K / 2; i += THREADS) {
        u32 r = i / (K / 2), c = i % (K / 2) * 2, t = first + r;
        const float* from = a.q + u64(t) * a.q_stride + head * a.q_head_stride + c;
        bool is = t < a.tokens;
        *reinterpret_cast<u32*>(&q[r][c]) = is ? floats_to_halves(from[0], from[1]) : 0;
    }

    // what a token at a position sees: [begin, end)
    u32 aside = a.both_ways ? (a.window ? a.window / 2 : end_of_all) : (a.window ? a.window - 1 : base + a.tokens);
    auto begin_of = [&](u32 position) {
        return a.chunked ? position / a.window * a.window : position > aside ? position - aside : 0;
    };
    auto end_of = [&](u32 position) { return a.both_ways ? min(end_of_all, position + aside + 1) : position + 1; };
    u32 last = min(first + ROWS, a.tokens) - 1;
    u32 begin = begin_of(base + first), end = end_of(base + last);
    u32 row_at[2], row_begin[2], row_end[2];
    float max[2] = {LOWEST, LOWEST}, sum[2] = {};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        row_at[h] = first + warp * 16 + h * 8 + lane / 4;
        u32 position = base + min(row_at[h], a.tokens - 1);
        row_begin[h] = begin_of(position), row_end[h] = end_of(position);
    }
    float slope = a.slopes ? a.slopes[head] : 0.0f;
    float out[V / 8][4] = {};
#pragma unroll 1
    for (u32 position = begin / N * N; position < end; position += N) {
        u64 row = cache_row(pages, position, kv_head, a.n_head_kv);
        __syncthreads();
        load_rows<K, N>(k, a.keys, a.key_type, K, 0, row, position, end_of_all);
        load_rows<V, N>(v, a.values, a.value_type, dim_v, first_value, row, position, end_of_all);
        commit_copies();
        wait_for_copies();
        __syncthreads();

        float scores[N / 8][4] = {};
#pragma unroll
        for (int d = 0; d < K / 16; d++) {
            u32 qs[4];
            load_matrices(qs, &q[warp * 16 + lane % 16][16 * d + lane / 16 * 8]);
#pragma unroll
            for (int n = 0; n < N / 16; n++) {
                u32 ks[4];
                load_matrices(ks, &k[16 * n + lane % 8 + lane / 16 * 8][16 * d + lane / 8 % 2 * 8]);
                multiply_f16(scores[2 * n], qs, ks[0], ks[1]);
                multiply_f16(scores[2 * n + 1], qs, ks[2], ks[3]);
            }
        }
        float largest[2] = {max[0], max[1]};
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 p = position + 8 * n + 2 * (lane % 4) + j % 2;
                float s = scores[n][j] * a.scale;
                if (a.softcap > 0.0f) s = a.softcap * tanh_of(s / a.softcap);
                s += slope * float(p);
                bool seen = p >= row_begin[j / 2] && p < row_end[j / 2];
                scores[n][j] = seen ? s : -INFINITY;
                largest[j / 2] = fmaxf(largest[j / 2], scores[n][j]);
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            largest[h] = fmaxf(largest[h], __shfl_xor_sync(ALL_LANES, largest[h], 1));
            largest[h] = fmaxf(largest[h], __shfl_xor_sync(ALL_LANES, largest[h], 2));
            float factor = expf(max[h] - largest[h]);
            max[h] = largest[h];
            sum[h] *= factor;
#pragma unroll
            for (int n = 0; n < V / 8; n++) out[n][2 * h] *= factor, out[n][2 * h + 1] *= factor;
        }
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                scores[n][j] = expf(scores[n][j] - max[j / 2]);
                sum[j / 2] += scores[n][j];
            }
        }
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            u32 ps[4];
#pragma unroll
            for (int i = 0; i < 4; i++) ps[i] = floats_to_halves(scores[2 * n + i / 2][i % 2 * 2], scores[2 * n + i / 2][i % 2 * 2 + 1]);
#pragma unroll
            for (int d = 0; d < V / 16; d++) {
                u32 vs[4];
                load_matrices_transposed(vs, &v[16 * n + lane % 16][16 * d + lane / 16 * 8]);
                multiply_f16(out[2 * d], ps, vs[0], vs[1]);
                multiply_f16(out[2 * d + 1], ps, vs[2], vs[3]);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 1);
        sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 2);
        float factor = 1.0f;
        if (a.sinks) {
            float top = fmaxf(max[h], a.sinks[head]);
            factor = expf(max[h] - top);
            sum[h] = sum[h] * factor + expf(a.sinks[head] - top);
        }
        if (row_at[h] >= a.tokens) continue;
        u64 at = (u64(row_at[h]) * n_head + head) * dim_v + first_value;
        const float* gates =
            a.gates ? a.gates + u64(row_at[h]) * a.gate_stride + head * a.gate_head_stride + first_value : nullptr;
#pragma unroll
        for (int n = 0; n < V / 8; n++) {
            u32 d = 8 * n + 2 * (lane % 4);
            float x = out[n][2 * h] * factor / sum[h], y = out[n][2 * h + 1] * factor / sum[h];
            if (gates) x /= 1.0f + expf(-gates[d]), y /= 1.0f + expf(-gates[d + 1]);
            if (a.y) a.y[at + d] = x, a.y[at + d + 1] = y;
            if (a.bf16) *reinterpret_cast<u32*>(a.bf16 + at + d) = floats_to_bf16(x, y);
        }
    }
}

#define ENTRY(name, K, V)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) flash_##name(                                           \
        const float* q, u32 q_stride, u32 q_head_stride, u32 tokens, const u8* keys, const u8* values,            \
        u32 key_type, u32 value_type, const u32* positions, const u32* sequences, const u32* pages, u32 max_pages, \
        u32 n_head_kv, u32 group, float scale, float softcap, u32 window, u32 chunked, u32 both_ways,             \
        const float* slopes, const float* sinks, const float* gates, u32 gate_stride, u32 gate_head_stride,       \
        float* y, u16* bf16                                                                                       \
    ) {                                                                                                           \
        attend<K, V>({q, q_stride, q_head_stride, tokens, keys, values, key_type, value_type, positions, sequences,  \
            pages, max_pages, n_head_kv, group, scale, softcap, window, chunked, both_ways, slopes, sinks, gates, \
            gate_stride, gate_head_stride, y, bf16});                                                            \
    }

ENTRY(32, 32, 32)
ENTRY(64, 64, 64)
ENTRY(80, 80, 80)
ENTRY(96, 96, 96)
ENTRY(128, 128, 128)
ENTRY(256, 256, 256)
// more values than sums fit the registers: blocks share them, and each computes the weights
ENTRY(512, 512, 256)
ENTRY(576_512, 576, 256)
