// Many columns of activations times a matrix of FORMAT, on tensor cores.
//
// 1. A block gives a tile of 128 tokens times 128 rows of weights, 64 values of the sum at a time.
// 2. While a tile is multiplied, the next one's activations are copied and its weights' bits are on their way to registers.
#include "matmul.cuh"

#define TILE 128

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(matmul, NAME)(MATMUL_PARAMETERS) {
    extern __shared__ uint4 room[];
    Tile<TILE>* tiles_x = reinterpret_cast<Tile<TILE>*>(room);  // two of each
    Tile<TILE>* tiles_w = tiles_x + 2;
    u32 first_column = blockIdx.x * TILE, first_row = blockIdx.y * TILE, expert = blockIdx.z;
    if (order) {
        order += starts[expert];
        columns = starts[expert + 1] - starts[expert];
        w += u64(expert) * expert_rows * row_bytes;
        if (first_column >= columns) return;
    }
    auto column_of = [&](u32 c) { return order ? order[c] : c; };
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    int n_units = k / 32, steps = ceil_div(n_units, 2);

    // what this thread fetches: four chunks of activations, a unit of weights
    const u8* row = w + u64(min(first_row + thread / 2, rows - 1)) * row_bytes;
    Activations<TILE> activations(x, k, first_column, columns, share, column_of);
    auto copy_x = [&](int step, Tile<TILE>& tile) {
        activations.copy(step, n_units, tile);
        commit_copies();
    };
    Weights weights;
    auto load_w = [&](int step) { weights.load(row, min(2 * step + thread % 2, n_units - 1)); };
    auto store_w = [&](int step, Tile<TILE>& tile) { store_weights(weights, 2 * step + thread % 2 < n_units, tile); };

    copy_x(0, tiles_x[0]);
    load_w(0);
    store_w(0, tiles_w[0]);
    // a warp multiplies 64 tokens with 32 rows
    int tokens_at = warp / 4 * 64, rows_at = warp % 4 * 32;
    float sums[4][4][4] = {};
    for (int step = 0; step < steps; step++) {
        wait_for_copies();
        __syncthreads();
        bool more = step + 1 < steps;
        if (more) {
            copy_x(step + 1, tiles_x[(step + 1) % 2]);
            load_w(step + 1);
        }
        Tile<TILE> &tile_x = tiles_x[step % 2], &tile_w = tiles_w[step % 2];
#pragma unroll
        for (int k16 = 0; k16 < STEP / 16; k16++) {
            u32 a[4][4], b[2][4];
#pragma unroll
            for (int m = 0; m < 4; m++) load_matrices(a[m], tile_x.at(tokens_at + 16 * m + lane % 16, 2 * k16 + lane / 16));
#pragma unroll
            for (int n = 0; n < 2; n++) {
                load_matrices(b[n], tile_w.at(rows_at + 16 * n + lane % 8 + lane / 16 * 8, 2 * k16 + lane / 8 % 2));
            }
#pragma unroll
            for (int m = 0; m < 4; m++) {
#pragma unroll
                for (int n = 0; n < 4; n++) multiply_bf16(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
        if (more) store_w(step + 1, tiles_w[(step + 1) % 2]);
    }

    float of_matrix = scale ? scale[expert] : 1.0f;
#pragma unroll
    for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 c = first_column + tokens_at + 16 * m + 8 * half + lane / 4;
            if (c >= columns) continue;
            float* to = y + u64(column_of(c)) * y_stride;
#pragma unroll
            for (int n = 0; n < 4; n++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    u32 r = first_row + rows_at + 8 * n + 2 * (lane % 4) + j;
                    if (r >= rows) continue;
                    float v = sums[m][n][2 * half + j] * of_matrix;
                    if (bias) v += bias[u64(expert) * expert_rows + r];
                    to[r] = add ? to[r] + factor * v : v;
                }
            }
        }
    }
}
