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

// The k largest of n keys, in descending order in `best`, of equal ones the first before the others: as keys of 64 bits, of
// which the lower half is the complement of a place. Key i is key(i), its place is place(i). `size` is a power of two from k
// on. A block of whole warps.
template <class Key, class Place>
__device__ __forceinline__ void find_largest(u32 n, u32 k, u32 size, u64* best, Key key_of, Place place_of) {
    __shared__ u32 counts[256];
    __shared__ u32 digit, need, taken;
    // the k-th largest key, eight bits at a time; `need` is how many are left to take among those that begin like it
    u32 prefix = 0;
    if (threadIdx.x == 0) need = k, taken = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (u32 i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            u32 key = key_of(i);
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
        u32 i = first + threadIdx.x, key = i < n ? key_of(i) : 0;
        bool is = i < n && key == prefix;
        u32 mask = __ballot_sync(ALL_LANES, is);
        __syncthreads();
        if (threadIdx.x % WARP == 0) counts[threadIdx.x / WARP] = __popc(mask);
        if (i < n && key > prefix) best[atomicAdd(&taken, 1)] = u64(key) << 32 | ~place_of(i);
        __syncthreads();
        u32 before = 0, all = 0;
        for (u32 w = 0; w < blockDim.x / WARP; w++) {
            if (w < threadIdx.x / WARP) before += counts[w];
            all += counts[w];
        }
        u32 rank = before + __popc(mask & ((1u << threadIdx.x % WARP) - 1));
        if (is && rank < equal) best[k - equal + rank] = u64(key) << 32 | ~place_of(i);
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
}

// The k largest logits of each row in descending order, of equal ones the first before the others, and their places. A block
// a row. Dynamic shared memory: `size` keys of 64 bits, `size` being a power of two from k on.
extern "C" __global__ void __launch_bounds__(1024) top_k(const float* logits, u32 n, u32 k, u32 size, u32* places, float* values) {
    extern __shared__ u64 best[];
    u64 row = blockIdx.x;
    logits += row * n;
    find_largest(n, k, size, best, [&](u32 i) { return order_of(logits[i]); }, [](u32 i) { return i; });
    for (u32 i = threadIdx.x; i < k; i += blockDim.x) {
        u32 at = ~u32(best[i]);
        places[row * k + i] = at;
        values[row * k + i] = logits[at];
    }
}

// The same by several blocks a row: each finds the largest of its share, and the last one to arrive the largest of these.
// Grid (blocks, row); `room` (rows, blocks, k), `counters` (rows) 0.
extern "C" __global__ void __launch_bounds__(1024) top_k_of_shares(
    const float* logits, u32 n, u32 k, u32 size, u64* room, u32* counters, u32* places, float* values
) {
    extern __shared__ u64 best[];
    u64 row = blockIdx.y;
    logits += row * n, room += row * gridDim.x * k;
    u32 share = ceil_div(n, gridDim.x), first = min(blockIdx.x * share, n), mine = min(share, n - first);
    u32 most = min(k, share);  // of a whole share
    if (mine > 0) {
        u32 some = min(k, mine);
        auto key = [&](u32 i) { return order_of(logits[first + i]); };
        find_largest(mine, some, size, best, key, [&](u32 i) { return first + i; });
        for (u32 i = threadIdx.x; i < some; i += blockDim.x) room[blockIdx.x * most + i] = best[i];
    }
    if (!arrives_last(counters + row, gridDim.x)) return;
    // shares are whole but for the last one that has anything
    u32 whole = n / share, all = whole * most + min(k, n - whole * share);
    auto key = [&](u32 i) { return u32(__ldcg(room + i) >> 32); };
    find_largest(all, k, size, best, key, [&](u32 i) { return ~u32(__ldcg(room + i)); });
    for (u32 i = threadIdx.x; i < k; i += blockDim.x) {
        u32 at = ~u32(best[i]);
        places[row * k + i] = at;
        values[row * k + i] = logits[at];
    }
}

// The sum of e^((value - first value) / temperature) of n values, over a warp.
__device__ __forceinline__ float sum_of_weights(const float* values, u32 n, float temperature) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += WARP) sum += expf((values[i] - values[0]) / temperature);
    return warp_sum(sum);
}

// The first place up to which these weights add up to `target`, or with OR_MORE false to more; the last one if there is none.
template <bool OR_MORE>
__device__ __forceinline__ u32 place_of_sum(const float* values, u32 n, float temperature, float target) {
    u32 lane = threadIdx.x;
    for (u32 first = 0; first < n; first += WARP) {
        u32 i = first + lane;
        float up_to = i < n ? expf((values[i] - values[0]) / temperature) : 0.0f;
        for (int d = 1; d < WARP; d *= 2) {
            float other = __shfl_up_sync(ALL_LANES, up_to, d);
            if (lane >= u32(d)) up_to += other;
        }
        u32 mask = __ballot_sync(ALL_LANES, i < n && (OR_MORE ? target <= up_to : target < up_to));
        if (mask) return first + __ffs(mask) - 1;
        target -= __shfl_sync(ALL_LANES, up_to, WARP - 1);
    }
    return n - 1;
}

// A token of each row, drawn from the softmax of its k candidates (in descending order) over the temperature. Warp `row`;
// `uniform` (rows): numbers of [0, 1).
extern "C" __global__ void __launch_bounds__(WARP) draw(
    const u32* places, const float* values, u32 k, float temperature, const float* uniform, u32* tokens
) {
    u64 row = blockIdx.x;
    values += row * k;
    float target = uniform[row] * sum_of_weights(values, k, temperature);
    u32 place = place_of_sum<false>(values, k, temperature, target);
    if (threadIdx.x == 0) tokens[row] = places[row * k + place];
}

// The same of those candidates that are left: the first ones whose probabilities reach top_p together, and of them those at
// least min_p times as likely as the first. `options` (rows, 4): temperature (0: the first candidate), top_p, min_p, and the
// number of [0, 1).
extern "C" __global__ void __launch_bounds__(WARP) sample(
    const u32* places, const float* values, u32 k, const float* options, u32* tokens
) {
    u64 row = blockIdx.x;
    values += row * k, options += 4 * row;
    float temperature = options[0], top_p = options[1], least = values[0] + logf(options[2]);
    u32 place = 0;
    if (temperature > 0.0f) {
        u32 n = k;
        if (top_p < 1.0f) n = place_of_sum<true>(values, k, 1.0f, top_p * sum_of_weights(values, k, 1.0f)) + 1;
        u32 likely = 0;
        for (u32 i = threadIdx.x; i < n; i += WARP) likely += values[i] >= least;
        for (int d = 16; d > 0; d /= 2) likely += __shfl_xor_sync(ALL_LANES, likely, d);
        n = max(likely, 1u);
        place = place_of_sum<false>(values, n, temperature, options[3] * sum_of_weights(values, n, temperature));
    }
    if (threadIdx.x == 0) tokens[row] = places[row * k + place];
}

// Logits (rows, n) of the tokens that each row had last: divided by a number where positive, else multiplied with it; less a
// number, and less another for each time. Block `row`; history (rows, room), of which lengths (rows) count; options (rows, 3):
// these numbers.
extern "C" __global__ void __launch_bounds__(128) penalize(
    float* logits, u32 n, const u32* history, u32 room, const u32* lengths, const float* options
) {
    u64 row = blockIdx.x;
    history += row * room, options += 3 * row;
    u32 length = min(lengths[row], room);
    for (u32 i = threadIdx.x; i < length; i += blockDim.x) {
        u32 id = history[i], count = 0;
        bool first = id < n;
        for (u32 j = 0; j < length; j++) {
            bool same = history[j] == id;
            count += same;
            first = first && !(same && j < i);
        }
        if (!first) continue;
        float* logit = logits + row * n + id;
        float v = *logit > 0.0f ? *logit / options[0] : *logit * options[0];
        *logit = v - (float(count) * options[2] + options[1]);
    }
}
