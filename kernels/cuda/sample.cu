// The next token from logits, so that four bytes a token cross the bus.
#include "common.cuh"

// Floats as integers in the same order; NaN is the least.
__device__ __forceinline__ u32 order_of(float x) {
    u32 bits = __float_as_uint(x);
    if (x != x) return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The place of the largest logit, of equal ones the first: grid (blocks, row), `best` (rows, blocks), `counters` (rows) 0.
extern "C" __global__ void __launch_bounds__(512) argmax(
    const float* logits, u32 n, u64* best, u32* counters, u32* tokens
) {
    __shared__ u64 room[WARP];
    u64 row = blockIdx.y;
    auto largest = [&](u64 key) {
#pragma unroll
        for (int d = 16; d > 0; d /= 2) {
            u64 other = __shfl_xor_sync(ALL_LANES, key, d);
            key = other > key ? other : key;
        }
        if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = key;
        __syncthreads();
        for (u32 i = 0; i < blockDim.x / WARP; i++) key = room[i] > key ? room[i] : key;
        __syncthreads();
        return key;
    };
    u64 key = 0;
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        u64 mine = u64(order_of(logits[row * n + i])) << 32 | ~i;
        key = mine > key ? mine : key;
    }
    key = largest(key);
    if (threadIdx.x == 0) best[row * gridDim.x + blockIdx.x] = key;
    if (!arrives_last(counters + row, gridDim.x)) return;
    key = 0;
    for (u32 i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
        u64 mine = __ldcg(best + row * gridDim.x + i);
        key = mine > key ? mine : key;
    }
    key = largest(key);
    if (threadIdx.x == 0) tokens[row] = ~u32(key);
}

// The k largest logits of each row in descending order, of equal ones the first before the others, and their places. A block
// a row. Dynamic shared memory: `size` keys of 64 bits, `size` being a power of two from k on.
extern "C" __global__ void __launch_bounds__(1024) top_k(const float* logits, u32 n, u32 k, u32 size, u32* places, float* values) {
    extern __shared__ u64 best[];
    __shared__ u32 counts[256];
    __shared__ u32 digit, need, taken;
    u64 row = blockIdx.x;
    logits += row * n;
    // the k-th largest key, eight bits at a time; `need` is how many are left to take among those that begin like it
    u32 prefix = 0;
    if (threadIdx.x == 0) need = k, taken = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (u32 i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            u32 key = order_of(logits[i]);
            if (shift == 24 || key >> (shift + 8) == prefix) atomicAdd(&counts[key >> shift & 255], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 left = need, i = 255;
            for (; i > 0 && counts[i] < left; i--) left -= counts[i];
            digit = i, need = left;
        }
        __syncthreads();
        prefix = prefix << 8 | digit;
    }
    // all that are larger, in any order, and the first of those that are equal
    for (u32 i = threadIdx.x; i < size; i += blockDim.x) best[i] = 0;
    u32 equal = need;
    for (u32 first = 0; first < n; first += blockDim.x) {
        u32 i = first + threadIdx.x, key = i < n ? order_of(logits[i]) : 0;
        bool is = i < n && key == prefix;
        u32 mask = __ballot_sync(ALL_LANES, is);
        __syncthreads();
        if (threadIdx.x % WARP == 0) counts[threadIdx.x / WARP] = __popc(mask);
        if (i < n && key > prefix) best[atomicAdd(&taken, 1)] = u64(key) << 32 | ~i;
        __syncthreads();
        u32 before = 0, all = 0;
        for (u32 w = 0; w < blockDim.x / WARP; w++) {
            if (w < threadIdx.x / WARP) before += counts[w];
            all += counts[w];
        }
        u32 rank = before + __popc(mask & ((1u << threadIdx.x % WARP) - 1));
        if (is && rank < equal) best[k - equal + rank] = u64(key) << 32 | ~i;
        equal = all < equal ? equal - all : 0;
    }
    // bitonic sort, the largest first
    for (u32 width = 2; width <= size; width *= 2) {
        for (u32 distance = width / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < size / 2; i += blockDim.x) {
                u32 a = i / distance * 2 * distance + i % distance, b = a + distance;
                bool descending = (a & width) == 0;
                u64 x = best[a], y = best[b];
                if ((x < y) == descending) best[a] = y, best[b] = x;
            }
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < k; i += blockDim.x) {
        u32 at = ~u32(best[i]);
        places[row * k + i] = at;
        values[row * k + i] = logits[at];
    }
}

// A token of each row, drawn from the softmax of its k candidates (in descending order) over the temperature. Warp `row`;
// `uniform` (rows): numbers of [0, 1).
extern "C" __global__ void __launch_bounds__(WARP) draw(
    const u32* places, const float* values, u32 k, float temperature, const float* uniform, u32* tokens
) {
    u64 row = blockIdx.x;
    u32 lane = threadIdx.x;
    places += row * k, values += row * k;
    float sum = 0.0f;
    for (u32 i = lane; i < k; i += WARP) sum += expf((values[i] - values[0]) / temperature);
    float left = uniform[row] * warp_sum(sum);
    u32 chosen = k - 1;
    for (u32 first = 0; first < k; first += WARP) {
        u32 i = first + lane;
        float weight = i < k ? expf((values[i] - values[0]) / temperature) : 0.0f, up_to = weight;
        for (int d = 1; d < WARP; d *= 2) {
            float other = __shfl_up_sync(ALL_LANES, up_to, d);
            if (lane >= u32(d)) up_to += other;
        }
        u32 mask = __ballot_sync(ALL_LANES, i < k && left < up_to);
        if (mask) {
            chosen = first + __ffs(mask) - 1;
            break;
        }
        left -= __shfl_sync(ALL_LANES, up_to, WARP - 1);
    }
    if (lane == 0) tokens[row] = places[chosen];
}
