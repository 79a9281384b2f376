// Normalization of a row by a block of whole warps.
#pragma once
#include "q8.cuh"

enum NormKind { NO_NORM, RMS_NORM, LAYER_NORM };

struct Norm {
    int kind;
    float eps;
    const float* weight;  // (n)
    const float* bias;    // (n), or none
};

// Gives put(i, value i of the normalized row x), each warp 32 neighbours at a time: where n is a multiple of 32, all lanes
// of a warp arrive together. The row is read past the first cache, so that others may have written it in this launch.
template <class Put>
__device__ __forceinline__ void normalize(const float* x, int n, const Norm& norm, Put put) {
    __shared__ float room[WARP];
    float mean = 0.0f, scale = 1.0f;
    if (norm.kind == LAYER_NORM) {
        float sum = 0.0f;
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += blockDim.x) sum += __ldcg(x + i);
        mean = block_sum(sum, room) / n;
    }
    if (norm.kind != NO_NORM) {
        float squares = 0.0f;
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            float v = __ldcg(x + i) - mean;
            squares += v * v;
        }
        scale = 1.0f / sqrtf(block_sum(squares, room) / n + norm.eps);
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float v = __ldcg(x + i);
        if (norm.kind != NO_NORM) {
            v = (v - mean) * scale * norm.weight[i];
            if (norm.bias) v += norm.bias[i];
        }
        put(i, v);
    }
}

// The same for a row in shared memory, in place.
__device__ __forceinline__ void normalize_shared(float* x, u32 n, const Norm& norm) {
    __shared__ float room[WARP];
    float mean = 0.0f;
    if (norm.kind == LAYER_NORM) {
        float sum = 0.0f;
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
        mean = block_sum(sum, room) / n;
    }
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(block_sum(squares, room) / n + norm.eps);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) x[i] = (x[i] - mean) * scale * norm.weight[i];
    __syncthreads();
}
