// Queries, keys and values of single tokens in one launch, and what follows their matrices.
//
// 1. A block gives 32 rows of one of the three matrices, as a product of one column does (matvec.cuh). Matrices may have one of
//    two formats, FIRST and SECOND.
// 2. A head is finished by the last of its blocks to arrive, so that heads wait for their own rows alone.
#include "products.cuh"
#include "heads.cuh"
#include "matvec.cuh"

struct Parts {
    const u8* w[3];
    const float *scale[3], *bias[3];  // factor of a matrix, what its rows gain; or none
    u64 row_bytes[3];
    u32 second;                       // bit i: matrix i is of the second format
    u32 k;
    u32* counters;                    // (tokens, heads), 0; none where heads are not to be finished
};

template <class T>
__device__ __forceinline__ T part_of(const T (&of)[3], int part) { return part == 0 ? of[0] : part == 1 ? of[1] : of[2]; }

template <class A, class B>
struct Same {
    static const bool IS = false;
};
template <class A>
struct Same<A, A> {
    static const bool IS = true;
};

// Where a block's rows are.
struct Rows {
    int part;                      // 0 queries, 1 keys, 2 values
    u32 first_row, rows, of_head;  // rows of the matrix, and of a head in it
    u32 head;                      // the head of the first row, counted over all three
};

__device__ __forceinline__ Rows rows_of(u32 block, const Heads& a, u32 n_head_kv) {
    u32 rows[3] = {a.n_head * a.q_head_stride, n_head_kv * a.dim_k, n_head_kv * a.dim_v};
    u32 before = ceil_div(rows[0], OUTPUTS), before_v = before + ceil_div(rows[1], OUTPUTS);
    Rows p = {0, block * OUTPUTS, rows[0], a.q_head_stride, 0};
    if (block >= before) p = {1, (block - before) * OUTPUTS, rows[1], a.dim_k, a.n_head};
    if (block >= before_v) p = {2, (block - before_v) * OUTPUTS, rows[2], a.dim_v, a.n_head + n_head_kv};
    p.head += p.first_row / p.of_head;
    return p;
}

template <class First, class Second>
__device__ __forceinline__ void qkv(const Parts& m, const Heads& heads, const typename First::X* x) {
    __shared__ float sums[OUTPUTS];
    extern __shared__ float head_values[];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 n_head_kv = m.w[1] ? heads.n_head_kv : 0;
    {
        Rows p = rows_of(blockIdx.x, heads, n_head_kv);
        const u8* rows[2];
#pragma unroll
        for (int s = 0; s < 2; s++) {
            rows[s] = part_of(m.w, p.part) + min(p.first_row + 2 * warp + s, p.rows - 1) * part_of(m.row_bytes, p.part);
        }
        float sum[2][1] = {};
        x += First::length(u64(blockIdx.y) * m.k);
        if (!Same<First, Second>::IS && m.second >> p.part & 1) {
            asm volatile("" : "+l"(rows[0]), "+l"(rows[1]), "+l"(x));  // so that nothing of both products is computed ahead
            Second::template add<1>(rows, x, m.k, sum);
        } else {
            First::template add<1>(rows, x, m.k, sum);
        }
#pragma unroll
        for (int s = 0; s < 2; s++) {
            float all = warp_sum(sum[s][0]);
            if (lane == 0) sums[2 * warp + s] = all;
        }
    }
    __syncthreads();
    // found once more, so that no register holds it meanwhile
    u32 block, token;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
    asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(token));
    Rows p = rows_of(block, heads, n_head_kv);
    u64 t = token;
    u32 row = p.first_row + lane;
    if (warp == 0 && row < p.rows) {
        const float *scale = part_of(m.scale, p.part), *bias = part_of(m.bias, p.part);
        float v = sums[lane];
        if (scale) v *= *scale;
        if (bias) v += bias[row];
        float* y = p.part == 0 ? heads.q + t * heads.q_stride
            : p.part == 1      ? heads.k + t * heads.k_stride
                               : heads.v + t * heads.v_stride;
        y[row] = v;
    }
    if (m.counters && arrives_last(m.counters + t * (heads.n_head + 2 * n_head_kv) + p.head, p.of_head / OUTPUTS)) {
        finish_head(heads, p.head, t, head_values);
    }
}

#define ENTRY(name, First, Second)                                                                                    \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, 2) name(                                                \
        const u8* wq, const u8* wk, const u8* wv, const float* scale_q, const float* scale_k, const float* scale_v,   \
        const float* bias_q, const float* bias_k, const float* bias_v, u64 row_bytes_q, u64 row_bytes_k,              \
        u64 row_bytes_v, u32 second, const First::X* x, u32 n, u32* counters, HEADS_PARAMETERS                        \
    ) {                                                                                                               \
        qkv<First, Second>({{wq, wk, wv}, {scale_q, scale_k, scale_v}, {bias_q, bias_k, bias_v},                      \
            {row_bytes_q, row_bytes_k, row_bytes_v}, second, n, counters}, HEADS_ARGUMENTS, x);                       \
    }

#define JOIN(a, b) a##_##b
#define QKV(name) JOIN(qkv, name)
#ifdef FLOATS
ENTRY(qkv_f32, FloatProduct<F32>, FloatProduct<F32>)
ENTRY(qkv_f16, FloatProduct<F16>, FloatProduct<F16>)
ENTRY(qkv_bf16, FloatProduct<BF16>, FloatProduct<BF16>)
#else
ENTRY(QKV(NAME), BlockProduct<FIRST>, BlockProduct<SECOND>)
#endif
