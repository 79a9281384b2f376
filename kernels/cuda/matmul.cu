// Many columns of activations times a matrix of FORMAT, on tensor cores.
//
// 1. A block gives a tile of 128 tokens times 128 rows of weights, 64 values of the sum at a time: two units of each row,
//    which its threads turn into bf16 in shared memory. A unit's runs are not neighbours in the row; the activations are
//    fetched in the same order, so that any format's units will do.
// 2. While a tile is multiplied, the next one's activations are copied and its weights' bits are on their way to registers.
// 3. Rows of shared memory are 128 bytes, eight chunks of 16; chunk c of row r lies at place c ^ r % 8, so that the eight
//    rows that are read together lie in different banks.
#include "formats.cuh"
#include "tensor.cuh"

#define TILE 128
#define STEP 64
#define THREADS 256

#ifdef FLOATS
// A run of 16 values at a time.
struct Weights {
    static const int UNITS = 1, N = 32;
    u32 words[32 * FORMAT::BYTES / 4];
    static __device__ __forceinline__ int at(int, int r) { return 16 * r; }
    __device__ __forceinline__ void load(const u8* row, int i) { load_words<16>(row + u64(i) * 32 * FORMAT::BYTES, words); }
    __device__ __forceinline__ void values(int r, float (&to)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            u32 word = words[(16 * r + i) * FORMAT::BYTES / 4];
            to[i] = FORMAT::from_word(FORMAT::BYTES == 2 && i % 2 ? word >> 16 : word);
        }
    }
};
#else
struct Weights {
    static const int UNITS = FORMAT::N / 32, N = FORMAT::N;
    Unit unit;
    static __device__ __forceinline__ int at(int u, int r) { return FORMAT::at(u, r); }
    __device__ __forceinline__ void load(const u8* row, int i) {
        FORMAT::unit(row + u64(i / UNITS) * FORMAT::BYTES, i % UNITS, unit);
    }
    __device__ __forceinline__ void values(int r, float (&to)[16]) const { values_of<FORMAT>(unit, r, to); }
};
#endif

struct Tile {
    uint4 chunks[TILE][8];
    __device__ __forceinline__ uint4* at(int row, int chunk) { return &chunks[row][chunk ^ row % 8]; }
};

#define JOIN(a, b) a##_##b
#define ENTRY(format) JOIN(matmul, format)

// y (columns, y_stride) = x (columns, k; bf16) times w, times `scale` and plus `bias` (rows) where there are such; or y gains
// `factor` times that. Of experts, block z takes the columns order[starts[z]] to order[starts[z + 1]], the activations of
// column c / share, and the matrix that begins z * expert_rows rows behind the first.
extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(NAME)(
    const u8* w, const float* scale, const float* bias, u64 row_bytes, const u16* x, u32 k, u32 rows, u32 columns,
    const u32* order, const u32* starts, u32 expert_rows, u32 share, u32 add, float factor, float* y, u32 y_stride
) {
    extern __shared__ uint4 room[];
    Tile* tiles_x = reinterpret_cast<Tile*>(room);  // two of each
    Tile* tiles_w = tiles_x + 2;
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
    int chunk = thread % 8;
    const u16* from[4];
    bool is[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 c = first_column + thread / 8 + 32 * i;
        is[i] = c < columns;
        from[i] = x + u64(column_of(min(c, columns - 1)) / share) * k;
    }
    auto copy_x = [&](int step, Tile& tile) {
        int i = 2 * step + chunk / 4, unit = min(i, n_units - 1);
        int at = unit / Weights::UNITS * Weights::N + Weights::at(unit % Weights::UNITS, chunk / 2 % 2) + chunk % 2 * 8;
#pragma unroll
        for (int j = 0; j < 4; j++) copy_16(tile.at(thread / 8 + 32 * j, chunk), from[j] + at, is[j] && i < n_units);
        commit_copies();
    };
    Weights weights;
    auto load_w = [&](int step) { weights.load(row, min(2 * step + thread % 2, n_units - 1)); };
    auto store_w = [&](int step, Tile& tile) {
        bool some = 2 * step + thread % 2 < n_units;  // zeros behind the end, so that no NaN meets the zeros there
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float v[16];
            weights.values(r, v);
            u32 words[8];
#pragma unroll
            for (int i = 0; i < 8; i++) words[i] = some ? floats_to_bf16(v[2 * i], v[2 * i + 1]) : 0;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint4 c = {words[4 * half], words[4 * half + 1], words[4 * half + 2], words[4 * half + 3]};
                *tile.at(thread / 2, 4 * (thread % 2) + 2 * r + half) = c;
            }
        }
    };

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
        Tile &tile_x = tiles_x[step % 2], &tile_w = tiles_w[step % 2];
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
