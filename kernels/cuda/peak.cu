// What a GPU can do at most, to which other kernels are compared: copies of memory, and products on tensor cores.
#if !defined(TENSOR_CORES) && !defined(WARPGROUPS)
#include "common.cuh"

// to (n) = from, in words of 16 bytes. A thread has four loads in flight before it writes.
extern "C" __global__ void __launch_bounds__(256) copy_words(const uint4* from, u64 n, uint4* to) {
    u64 step = u64(gridDim.x) * blockDim.x;
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
        to[i] = a, to[i + step] = b, to[i + 2 * step] = c, to[i + 3 * step] = d;
    }
    for (; i < n; i += step) to[i] = from[i];
}

#else
#define ONES 0x3f803f80u // two ones in bf16
#ifdef TENSOR_CORES
#include "tensor.cuh"

#define CHAINS 8 // independent sums of a warp: more than hide a product's latency

// sums (threads): of tiles of ones. A round multiplies CHAINS times 16x16 by 16x8 in each warp and adds 16 to each number.
extern "C" __global__ void __launch_bounds__(256) multiply_tiles(u32 rounds, float* sums) {
    const u32 a[4] = {ONES, ONES, ONES, ONES};
    float c[CHAINS][4] = {};
    for (u32 round = 0; round < rounds; round++) {
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) multiply_bf16(c[chain], a, ONES, ONES);
    }
    float sum = 0.0f;
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain++) sum += c[chain][0] + c[chain][1] + c[chain][2] + c[chain][3];
    sums[u64(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}

#else
#include "warpgroup.cuh"

#define COLUMNS 256
#define ROWS (64 + COLUMNS)

// The same by products of warpgroups: a round multiplies 64x64 by 64x256 in each and adds 64 to each number.
extern "C" __global__ void __launch_bounds__(256) multiply_tiles_wgmma(u32 rounds, float* sums) {
    __shared__ __align__(1024) uint4 ones[ROWS * 8];
    for (int i = threadIdx.x; i < ROWS * 8; i += blockDim.x) ones[i] = {ONES, ONES, ONES, ONES};
    show_to_products();
    __syncthreads();
    u64 a = describe(ones), b = describe(ones + 64 * 8);
    float c[COLUMNS / 2] = {};
    for (u32 round = 0; round < rounds; round++) {
        begin_products();
#pragma unroll
        for (int k16 = 0; k16 < 4; k16++) multiply_add<COLUMNS>(c, a + k16 * NEXT_16, b + k16 * NEXT_16);
        commit_products();
        wait_for_products<1>();
    }
    wait_for_products<0>();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) sum += c[i];
    sums[u64(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}
#endif
#endif
