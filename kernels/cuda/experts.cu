// Mixtures of experts: which experts a token takes, which tokens an expert takes, and the sum of results.
#include "common.cuh"

enum Routing { SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN };

// A rank in the order of choice: the larger, of equal ones the first; a NaN is as bad as can be.
__device__ __forceinline__ u64 choice_key(float rank, u32 i) {
    u32 bits = __float_as_uint(rank == rank ? rank : -INFINITY);
    if ((bits << 1) == 0) bits = 0;  // zeros of both signs are equal
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return u64(bits) << 32 | ~i;
}

__device__ __forceinline__ u64 warp_largest(u64 key) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        u64 other = __shfl_xor_sync(ALL_LANES, key, d);
        key = other > key ? other : key;
    }
    return key;
}

// A warp takes the largest of n keys, of those that are above `taken`, and puts `taken` in its place.
__device__ __forceinline__ void take_largest(u64* keys, u32 n, u64 taken) {
    u64 best = 0;
    for (u32 i = threadIdx.x; i < n; i += WARP) best = keys[i] > best ? keys[i] : best;
    best = warp_largest(best);
    __syncwarp();
    if (threadIdx.x == 0 && best > taken) keys[~u32(best)] = taken;
    __syncwarp();
}

// Warp t chooses `used` of `n` experts for token t from the router's scores (tokens, stride): their numbers, ascending, and
// their weights (tokens, used). Experts are chosen from the best `groups_used` of `groups`, if there are groups. Dynamic
// shared memory: n floats, n and `groups` integers of 64 bits.
extern "C" __global__ void __launch_bounds__(WARP) route(
    const float* scores, u32 stride, u32 n, u32 used, u32 routing, const float* bias, u32 groups, u32 groups_used,
    u32 normalize, float scale, u32* chosen, float* weights
) {
    extern __shared__ u64 keys[];  // of each expert; 0: not to be chosen
    u64* group_keys = keys + n;
    float* w = reinterpret_cast<float*>(group_keys + groups);
    u64 t = blockIdx.x;
    u32 lane = threadIdx.x;
    scores += t * stride;
    float max = -INFINITY, sum = 0.0f;
    if (routing == SOFTMAX) {
        for (u32 i = lane; i < n; i += WARP) max = fmaxf(max, scores[i]);
        max = warp_max(max);
        for (u32 i = lane; i < n; i += WARP) sum += expf(scores[i] - max);
        sum = warp_sum(sum);
    }
    for (u32 i = lane; i < n; i += WARP) {
        float s = scores[i];
        w[i] = routing == SOFTMAX ? expf(s - max) / sum : routing == SIGMOID ? 1.0f / (1.0f + expf(-s)) : s;
        keys[i] = choice_key(bias ? w[i] + bias[i] : w[i], i);
    }
    __syncwarp();
    if (groups > 0) {
        u32 size = n / groups;
        for (u32 g = lane; g < groups; g += WARP) {
            // the sum of the best two
            u64 first = 0, second = 0;
            for (u32 i = g * size; i < (g + 1) * size; i++) {
                u64 key = keys[i];
                if (key > first) second = first, first = key;
                else if (key > second) second = key;
            }
            auto rank = [&](u64 key) {
                u32 i = ~u32(key);
                return key == 0 ? 0.0f : bias ? w[i] + bias[i] : w[i];
            };
            group_keys[g] = choice_key(rank(first) + rank(second), g);
        }
        __syncwarp();
        for (u32 j = 0; j < groups_used; j++) take_largest(group_keys, groups, 0);  // 0: open
        for (u32 i = lane; i < n; i += WARP) {
            if (group_keys[i / size] != 0) keys[i] = 0;
        }
        __syncwarp();
    }
    u32* mine = chosen + t * used;
    float* to = weights + t * used;
    for (u32 j = 0; j < used; j++) take_largest(keys, n, 1);  // 1: taken
    // numbers ascending: each expert counts the chosen ones before it
    auto is_chosen = [&](u32 i) { return keys[i] == 1; };
    if (routing == SOFTMAX_OF_CHOSEN) {
        for (u32 i = lane; i < n; i += WARP) {
            if (is_chosen(i)) max = fmaxf(max, w[i]);
        }
        max = warp_max(max);
        for (u32 i = lane; i < n; i += WARP) {
            if (is_chosen(i)) w[i] = expf(w[i] - max);
        }
    }
    float factor = scale;
    if (normalize || routing == SOFTMAX_OF_CHOSEN) {
        float all = 0.0f;
        for (u32 i = lane; i < n; i += WARP) {
            if (is_chosen(i)) all += w[i];
        }
        all = fmaxf(warp_sum(all), 6.1035156e-5f);  // as small as half precision can be: 0 is none to divide by
        factor /= all;
    }
    u32 before = 0;
    for (u32 first = 0; first < n; first += WARP) {
        u32 i = first + lane;
        bool is = i < n && is_chosen(i);
        u32 mask = __ballot_sync(ALL_LANES, is);
        u32 place = before + __popc(mask & ((1u << lane) - 1));
        if (is) mine[place] = i, to[place] = w[i] * factor;
        before += __popc(mask);
    }
}

// Warp e lists the places of expert e among `chosen` (n), in order: `order` (n) holds those of expert 0, then 1, and so on;
// those of e begin at starts[e] (experts + 1).
extern "C" __global__ void __launch_bounds__(WARP) order_by_expert(const u32* chosen, u32 n, u32* order, u32* starts) {
    u32 e = blockIdx.x, lane = threadIdx.x, less = 0;
    for (u32 i = lane; i < n; i += WARP) less += chosen[i] < e;
    for (int d = 16; d > 0; d /= 2) less += __shfl_xor_sync(ALL_LANES, less, d);
    if (lane == 0) starts[e] = less;
    if (lane == 0 && e == gridDim.x - 1) starts[gridDim.x] = n;
    for (u32 first = 0; first < n; first += WARP) {
        u32 i = first + lane;
        bool is = i < n && chosen[i] == e;
        u32 mask = __ballot_sync(ALL_LANES, is);
        if (is) order[less + __popc(mask & ((1u << lane) - 1))] = i;
        less += __popc(mask);
    }
}

// Thread (value, token): x (tokens, n) gains, or becomes, `factor` times the weighted sum of the results (tokens, used, n) of
// its experts, or the sum where there are no weights; and of the expert that all take (tokens, n), if there is one, times the
// sigmoid of its score, if it has one.
extern "C" __global__ void __launch_bounds__(256) sum_experts(
    const float* results, const float* weights, u32 used, const float* shared, const float* gates, u32 gate_stride,
    u32 n, float factor, u32 add, float* x
) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u64 t = blockIdx.y;
    if (i >= n) return;
    float sum = 0.0f;
    for (u32 j = 0; j < used; j++) {
        float value = results[(t * used + j) * n + i];
        sum += weights ? weights[t * used + j] * value : value;
    }
    if (shared) {
        float value = shared[t * n + i];
        if (gates) value /= 1.0f + expf(-gates[t * gate_stride]);
        sum += value;
    }
    x[t * n + i] = add ? x[t * n + i] + factor * sum : factor * sum;
}
