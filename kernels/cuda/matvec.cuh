// Products of a matrix with up to eight columns of activations, limited by the speed of memory.
//
// 1. A block of 16 warps gives 32 outputs of each column. A warp reads two rows side by side: two neighbouring rows of a
//    matrix, or the same row of a gate and of what it gates. So every value of the activations is loaded once for two rows,
//    and both products of a gate are in one place.
// 2. The lanes of a warp take turns along the row; each keeps a sum, and the sums of a warp are added up at the end.
// 3. Through shared memory the 32 outputs of a column come to the lanes of one warp, which store them, add them to what
//    there was, or apply an activation and quantize them for the next product.
// 4. Where a norm follows, the last block to arrive normalizes and quantizes the whole columns.
#pragma once
#include "norm.cuh"

#define WARPS 16
#define OUTPUTS 32

enum Epilogue { STORE, ADD, ACTIVATE, GATED };

struct Matvec {
    const u8* w[2];         // matrices of `rows` rows; the second one is what the first one gates
    const float* scale[2];  // factor of each expert's matrix, or none
    const float* bias[2];   // (rows), or none
    u64 row_bytes;
    int k, rows, columns;
    // experts: column c takes matrix experts[c], which begins expert_rows rows after the one before, and activations
    // c / share
    const u32* experts;
    int expert_rows, share;
    int epilogue, activation;
    float factor;           // of what is added
    float* y;               // (columns, y_stride), or none
    int y_stride;
    Q8* q8;                 // (columns, rows) of ACTIVATE and GATED, or none
    Norm norm;              // of y's columns, into
    Q8* norm_q8;            // (columns, rows), if there is one
    u32* counter;
};

// The parameters of a kernel, in the order of the fields; X is the type of the activations.
#define MATVEC_PARAMETERS(X)                                                                                            \
    const u8 *w0, const u8 *w1, const float *scale0, const float *scale1, const float *bias0, const float *bias1,       \
        u64 row_bytes, const X *x, u32 k, u32 rows, u32 columns, const u32 *experts, u32 expert_rows, u32 share,        \
        u32 epilogue, u32 activation, float factor, float *y, u32 y_stride, Q8 *q8, u32 norm_kind, float norm_eps,      \
        const float *norm_weight, const float *norm_bias, Q8 *norm_q8, u32 *counter
#define MATVEC_ARGUMENTS                                                                                                \
    {                                                                                                                   \
        {w0, w1}, {scale0, scale1}, {bias0, bias1}, row_bytes, int(k), int(rows), int(columns), experts,                \
            int(expert_rows), int(share), int(epilogue), int(activation), factor, y, int(y_stride), q8,                 \
            {int(norm_kind), norm_eps, norm_weight, norm_bias}, norm_q8, counter                                        \
    }

// What becomes of the outputs, of which there are two sums of each row and column: warp c does it for column c.
template <int COLUMNS>
__device__ __forceinline__ void finish(const Matvec& m, const float (&sums)[2][OUTPUTS][COLUMNS], u32 expert) {
    int c = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int first_row = blockIdx.x * OUTPUTS, row = first_row + lane;
    u64 column = blockIdx.y * COLUMNS + c;
    if (c < COLUMNS && column < m.columns) {
        float v[2] = {0.0f, 0.0f};
        bool is = row < m.rows;
#pragma unroll
        for (int s = 0; s < 2; s++) {
            if (s == 1 && m.epilogue != GATED) break;
            v[s] = sums[s][lane][c];
            if (m.scale[s]) v[s] *= m.scale[s][expert];
            if (m.bias[s] && is) v[s] += m.bias[s][u64(expert) * m.expert_rows + row];
        }
        float* y = m.y + column * m.y_stride + row;
        if (m.epilogue == ADD) {
            if (is) *y += m.factor * v[0];
        } else {
            float out = v[0];
            if (m.epilogue != STORE) out = activate(m.activation, v[0]);
            if (m.epilogue == GATED) out *= gate_of(m.activation, v[1]);
            if (m.y && is) *y = out;
            // rows are a multiple of 32 where they are quantized
            if (m.q8) quantize_q8(out, m.q8 + (column * m.rows + first_row) / 32);
        }
    }
    if (m.norm_q8 && arrives_last(m.counter, gridDim.x * gridDim.y)) {
#pragma unroll 1
        for (u64 c = 0; c < m.columns; c++) {
            normalize(m.y + c * m.y_stride, m.rows, m.norm, [&](int i, float v) {
                quantize_q8(v, m.norm_q8 + (c * m.rows + i) / 32);
            });
        }
    }
}

// Product::add(rows, x, k, sums) adds the products of two rows and the columns x, one behind the other, to sums. Columns up to
// a multiple of COLUMNS are read.
template <class Product, int COLUMNS>
__device__ __forceinline__ void matvec(const Matvec& m, const typename Product::X* x) {
    __shared__ float sums[2][OUTPUTS][COLUMNS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int first_row = blockIdx.x * OUTPUTS, first_column = blockIdx.y * COLUMNS;
    u32 expert = m.experts ? m.experts[first_column] : 0;
    u64 expert_bytes = u64(expert) * m.expert_rows * m.row_bytes;
    x += Product::length(u64(first_column / m.share) * m.k);
    bool two = m.epilogue == GATED;
    for (int output = two ? warp : 2 * warp; output < OUTPUTS; output += two ? WARPS : 2 * WARPS) {
        const u8* rows[2];
#pragma unroll
        for (int s = 0; s < 2; s++) {
            int row = min(first_row + output + (two ? 0 : s), m.rows - 1);
            rows[s] = (two && s == 1 ? m.w[1] : m.w[0]) + expert_bytes + row * m.row_bytes;
        }
        float sum[2][COLUMNS] = {};
        Product::template add<COLUMNS>(rows, x, m.k, sum);
#pragma unroll
        for (int s = 0; s < 2; s++) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                float all = warp_sum(sum[s][c]);
                if (lane == 0) sums[two ? s : 0][output + (two ? 0 : s)][c] = all;
            }
        }
    }
    __syncthreads();
    finish<COLUMNS>(m, sums, expert);
}
