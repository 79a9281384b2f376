// c = a * b^T with tensor cores: cp.async into shared memory, ldmatrix, mma.sync; halves, bf16 and 8-bit integers.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(to)), "l"(from));
}

// One block of 128 threads makes a 32 x 32 tile, each warp 16 x 16 of it; k is a multiple of 32.
extern "C" __global__ void matmul_f16(const half* a, const half* b, float* c, int n, int k) {
    __shared__ __align__(16) half tile_a[2][32 * 40], tile_b[2][32 * 40];
    int row = threadIdx.x / 4, column = threadIdx.x % 4 * 8;
    const half* from_a = a + (blockIdx.y * 32 + row) * k + column;
    const half* from_b = b + (blockIdx.x * 32 + row) * k + column;
    auto fetch = [&](int stage, int at) {
        copy16(&tile_a[stage][row * 40 + column], from_a + at);
        copy16(&tile_b[stage][row * 40 + column], from_b + at);
        asm volatile("cp.async.commit_group;\n");
    };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;
    float sums[2][4] = {};
    fetch(0, 0);
    for (int at = 0; at < k; at += 32) {
        int stage = at / 32 % 2;
        if (at + 32 < k) {
            fetch(stage ^ 1, at + 32);
            asm volatile("cp.async.wait_group 1;\n");
        } else {
            asm volatile("cp.async.wait_group 0;\n");
        }
        __syncthreads();
        for (int inner = 0; inner < 32; inner += 16) {
            unsigned fa[4], fb[4];
            const half* at_a = &tile_a[stage][(warp_row + lane % 16) * 40 + inner + lane / 16 * 8];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                         : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
                         : "r"(shared_address(at_a)));
            const half* at_b = &tile_b[stage][(warp_column + lane % 8 + lane / 16 * 8) * 40 + inner + lane / 8 % 2 * 8];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                         : "=r"(fb[0]), "=r"(fb[1]), "=r"(fb[2]), "=r"(fb[3])
                         : "r"(shared_address(at_b)));
            for (int j = 0; j < 2; ++j) {
                asm volatile(
                    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                    : "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
                    : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[2 * j]), "r"(fb[2 * j + 1]));
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 2; ++j) {
        float* to = c + (blockIdx.y * 32 + warp_row + lane / 4) * n + blockIdx.x * 32 + warp_column + j * 8 + lane % 4 * 2;
        to[0] = sums[j][0];
        to[1] = sums[j][1];
        to[8 * n] = sums[j][2];
        to[8 * n + 1] = sums[j][3];
    }
}

// One warp multiplies 16 x k by 8 x k^T, bf16, k a multiple of 8.
extern "C" __global__ void matmul_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k) {
    int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
    float sums[4] = {};
    auto two = [](const __nv_bfloat16* p) { return *reinterpret_cast<const unsigned*>(p); };
    for (int at = 0; at < k; at += 8) {
        unsigned a0 = two(a + group * k + at + pair), a1 = two(a + (group + 8) * k + at + pair);
        unsigned b0 = two(b + group * k + at + pair);
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
                     : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                     : "r"(a0), "r"(a1), "r"(b0));
    }
    c[group * 8 + pair] = sums[0];
    c[group * 8 + pair + 1] = sums[1];
    c[(group + 8) * 8 + pair] = sums[2];
    c[(group + 8) * 8 + pair + 1] = sums[3];
}

// The same for 8-bit integers, k a multiple of 32.
extern "C" __global__ void matmul_s8(const signed char* a, const signed char* b, int* c, int k) {
    int group = threadIdx.x / 4, four = threadIdx.x % 4 * 4, pair = threadIdx.x % 4 * 2;
    int sums[4] = {};
    auto word = [](const signed char* p) { return *reinterpret_cast<const int*>(p); };
    for (int at = 0; at < k; at += 32) {
        int a0 = word(a + group * k + at + four), a1 = word(a + (group + 8) * k + at + four);
        int a2 = word(a + group * k + at + four + 16), a3 = word(a + (group + 8) * k + at + four + 16);
        int b0 = word(b + group * k + at + four), b1 = word(b + group * k + at + four + 16);
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                     : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    c[group * 8 + pair] = sums[0];
    c[group * 8 + pair + 1] = sums[1];
    c[(group + 8) * 8 + pair] = sums[2];
    c[(group + 8) * 8 + pair + 1] = sums[3];
}

__device__ __forceinline__ int dp4a(int a, int b, int c) {
    int sum;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}

// out[row] = sum over k of a[row][k] * x[k], 8-bit integers by dp4a, a warp a row, half2 scales
extern "C" __global__ void gemv_dp4a(const int4* a, const int4* x, const half2* scales, float* out, int width) {
    int row = blockIdx.x, lane = threadIdx.x;
    float sum = 0.0f;
    for (int at = lane; at < width / 16; at += 32) {
        int4 left = __ldg(a + row * (width / 16) + at), right = x[at];
        int dot = dp4a(left.x, right.x, 0);
        dot = dp4a(left.y, right.y, dot);
        dot = dp4a(left.z, right.z, dot);
        dot = dp4a(left.w, right.w, dot);
        float2 scale = __half22float2(__hmul2(scales[row], __float2half2_rn(0.5f)));
        sum += scale.x * (float)dot + scale.y;
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (lane == 0) out[row] = sum;
}
