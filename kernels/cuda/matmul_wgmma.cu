// Many columns of activations times a matrix of FORMAT, by products of warpgroups, of which tensor cores of compute capability
// 9.0 do more than half as many again in a cycle as of matmul.cu's.
//
// 1. A block gives a tile of COLUMNS tokens times 128 rows of weights, each warpgroup 64 of the rows. A weight is unpacked
//    once for all of these tokens, by a thread of the warpgroup that multiplies it.
// 2. While step s is multiplied, the weights of step s + 1 are turned into bf16, the activations of step s + 2 are copied,
//    and the bits of its weights are on their way to registers. Nothing waits for the products of step s before those of
//    step s + 1 were begun, so that tensor cores always have some.
// 3. So in step s the products of s - 1 may not be done yet, but those of s - 2 are, in all warps since the barrier. What
//    is written then, weights of s + 1 and activations of s + 2, needs room besides that of s - 1 and s.
#include "matmul.cuh"
#include "warpgroup.cuh"

#define ROWS 128
#define STAGES_W 3
#define STAGES_X 4

// What is at `p` where `is`, else `otherwise`.
__device__ __forceinline__ float load_if(bool is, const float* p, float otherwise) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.f32 %0, [%1];}" : "+f"(otherwise) : "l"(p), "r"(u32(is)));
    return otherwise;
}

__device__ __forceinline__ u32 load_if(bool is, const u32* p, u32 otherwise) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.u32 %0, [%1];}" : "+r"(otherwise) : "l"(p), "r"(u32(is)));
    return otherwise;
}

__device__ __forceinline__ void store_if(bool is, float* p, float v) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p st.global.f32 [%0], %1;}" ::"l"(p), "f"(v), "r"(u32(is)) : "memory");
}

template <int COLUMNS>
__device__ __forceinline__ void multiply(MATMUL_PARAMETERS) {
    extern __shared__ __align__(1024) uint4 room[];
    Tile<ROWS>* tiles_w = reinterpret_cast<Tile<ROWS>*>(room);
    Tile<COLUMNS>* tiles_x = reinterpret_cast<Tile<COLUMNS>*>(tiles_w + STAGES_W);
    u32 first_column = blockIdx.x * COLUMNS, first_row = blockIdx.y * ROWS, expert = blockIdx.z;
    if (order) {
        order += starts[expert];
        columns = starts[expert + 1] - starts[expert];
        w += u64(expert) * expert_rows * row_bytes;
        if (first_column >= columns) return;
    }
    auto column_of = [&](u32 c) { return order ? order[c] : c; };
    u32 thread = threadIdx.x, lane = thread % WARP, group = thread / (4 * WARP);
    int n_units = k / 32, steps = ceil_div(n_units, 2);

    // what this thread fetches: chunks of activations, a unit of weights
    const u8* row = w + u64(min(first_row + thread / 2, rows - 1)) * row_bytes;
    Activations<COLUMNS> activations(x, k, first_column, columns, share, column_of);
    // behind the last step there is nothing to fetch, and zeros are written: that takes less than to ask
    auto copy_x = [&](int step) {
        activations.copy(step, n_units, tiles_x[step % STAGES_X]);
        commit_copies();
    };
    Weights weights, next;
    auto load_w = [&](int step) { next.load(row, min(2 * step + int(thread % 2), n_units - 1)); };
    auto store_w = [&](int step) {
        store_weights(weights, 2 * step + int(thread % 2) < n_units, tiles_w[step % STAGES_W]);
    };

    copy_x(0);
    load_w(0);
    weights = next;
    float sums[COLUMNS / 2] = {};
    for (int step = -1; step < steps; step++) {
        wait_for_copies<1>();
        show_to_products();
        __syncthreads();
        if (step >= 0) {
            u64 a = describe(tiles_w[step % STAGES_W].chunks[64 * group]), b = describe(tiles_x[step % STAGES_X].chunks);
            begin_products();
#pragma unroll
            for (int k16 = 0; k16 < STEP / 16; k16++) multiply_add<COLUMNS>(sums, a + k16 * NEXT_16, b + k16 * NEXT_16);
            commit_products();
        }
        load_w(step + 2);
        copy_x(step + 2);
        store_w(step + 1);
        weights = next;
        wait_for_products<1>();
    }
    wait_for_products<0>();

    // Without branches, and all loads of some columns before the first store: what is added to would be waited for each time.
    const int AT_ONCE = 4;  // times 8 columns, of which a thread has two
    float of_matrix = scale ? scale[expert] : 1.0f;
    u32 r = first_row + thread / WARP * 16 + lane / 4;
    bool is_row[2];
    float of_row[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        is_row[half] = r + 8 * half < rows;
        of_row[half] = load_if(bias && is_row[half], bias + u64(expert) * expert_rows + r + 8 * half, 0.0f);
    }
#pragma unroll
    for (int first = 0; first < COLUMNS / 8; first += AT_ONCE) {
        float* to[AT_ONCE][2];
        bool is[AT_ONCE][2];
        float before[AT_ONCE][2][2];
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                u32 c = first_column + 8 * (first + n) + 2 * (lane % 4) + j;
                is[n][j] = c < columns;
                to[n][j] = y + u64(load_if(order && is[n][j], order + c, c)) * y_stride + r;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    before[n][j][half] = load_if(add && is[n][j] && is_row[half], to[n][j] + 8 * half, 0.0f);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float v = sums[4 * (first + n) + 2 * half + j] * of_matrix + of_row[half];
                    store_if(is[n][j] && is_row[half], to[n][j] + 8 * half, before[n][j][half] + factor * v);
                }
            }
        }
    }
}

// Blocks of few columns leave room for another one beside them.
#define KERNEL(n, blocks)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks) ENTRY(ENTRY(matmul_wgmma, NAME), n)(           \
        MATMUL_PARAMETERS                                                                                              \
    ) {                                                                                                                \
        multiply<n>(                                                                                             \
            w, scale, bias, row_bytes, x, k, rows, columns, order, starts, expert_rows, share, add, factor, y, y_stride \
        );                                                                                                             \
    }

KERNEL(64, 2)
KERNEL(128, 2)
KERNEL(256, 1)
