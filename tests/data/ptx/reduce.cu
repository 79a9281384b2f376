// Sums by warp shuffles and shared memory, softmax of rows, atomics, loops that diverge, a local function.
#include <cuda_fp16.h>

__device__ __forceinline__ float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// out[block] = sum of the block's part of x
extern "C" __global__ void block_sums(const float* __restrict__ x, float* __restrict__ out, int n) {
    __shared__ float parts[32];
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0.0f;
        sum = warp_sum(sum);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}

// One block a row: out = softmax(x), in halves
extern "C" __global__ void softmax(const half* x, half* out, int width) {
    extern __shared__ float row[];
    __shared__ float shared_max, shared_sum;
    const half* from = x + blockIdx.x * width;
    float largest = -3.4e38f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = __half2float(from[i]);
        largest = fmaxf(largest, row[i]);
    }
    for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_down_sync(0xffffffffu, largest, offset));
    if (threadIdx.x == 0) shared_max = largest;
    __syncthreads();
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = __expf(row[i] - shared_max);
        sum += row[i];
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) shared_sum = sum;
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[blockIdx.x * width + i] = __float2half(row[i] / shared_sum);
}

// counts[x % 16] += 1, and the largest and the smallest of all
extern "C" __global__ void histogram(const unsigned* x, unsigned* counts, int* extremes, int n) {
    __shared__ unsigned local[16];
    if (threadIdx.x < 16) local[threadIdx.x] = 0;
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        atomicAdd(&local[x[i] % 16], 1u);
        atomicMax(&extremes[0], (int)x[i]);
        atomicMin(&extremes[1], (int)x[i]);
    }
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

// Steps until x is 1 in the Collatz sequence: every thread leaves its loop at another time
extern "C" __global__ void collatz(const unsigned* x, unsigned* steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long value = x[i];
    unsigned count = 0;
    while (value != 1) {
        if (value & 1) {
            value = 3 * value + 1;
        } else {
            value >>= 1;
        }
        ++count;
        if (count == 1000) break;
    }
    unsigned active = __activemask();
    steps[i] = count + (active == 0 ? 1u << 31 : 0);
}

__noinline__ __device__ int gcd(int a, int b) {
    while (b) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

extern "C" __global__ void gcds(const int* a, const int* b, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = (a[i] & 1) ? gcd(a[i], b[i]) : -gcd(b[i], a[i]);
}

__constant__ unsigned char table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 240, 241, 242, 243, 244, 246, 248, 252};
__device__ float scale = 0.5f;

// Looks nibbles up, and a switch
extern "C" __global__ void lookup(const unsigned char* codes, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = scale * (float)(signed char)table[codes[i] & 15];
    switch (codes[i] >> 4) {
        case 0: x = -x; break;
        case 1: x *= 2.0f; break;
        case 2: x = sqrtf(fabsf(x)); break;
        case 3: x = tanhf(x); break;
        case 4: x = expf(x); break;
        case 5: x = 1.0f / x; break;
        case 6: x = sinf(x); break;
        case 7: x = rsqrtf(x); break;
        case 8: x = __int_as_float(__float_as_int(x) ^ 1); break;
        case 9: x = floorf(x) + roundf(x); break;
        default: x = logf(x); break;
    }
    out[i] = x;
}

// Local arrays, sorted by insertion; double precision
extern "C" __global__ void medians(const double* x, double* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    double mine[7];
    for (int k = 0; k < 7; ++k) {
        double value = x[(i * 7 + k) % n];
        int place = k;
        while (place > 0 && mine[place - 1] > value) {
            mine[place] = mine[place - 1];
            --place;
        }
        mine[place] = value;
    }
    if (threadIdx.x == 1000) printf("%f\n", mine[i % 7]);
    out[i] = mine[3] / 3.0;
}
