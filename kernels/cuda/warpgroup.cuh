// Products of warpgroups (four warps), which compute capability 9.0 alone has: both factors lie in shared memory, and the
// tensor cores read them on their own while the threads go on.
#pragma once
#include "tensor.cuh"

// What ordinary writes (and copies that were waited for) put into shared memory is seen by products of all threads that meet
// this one at a barrier afterwards. Without the name of the memory it would wait for all other memory, too.
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Orders what threads did with registers of sums before the products that follow.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// The products since the last call are one group.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all groups but the last GROUPS are done.
template <int GROUPS>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

// The descriptor of rows of 128 bytes whose chunks lie at place c ^ r % 8, the first row at a multiple of 1024 bytes; what is
// multiplied begins at `p`, in the first row. Its fields: the address, the distance of the halves of 16 values (not used with
// chunks that lie so), that of eight rows, all in units of 16 bytes, and the order of chunks, 1.
__device__ __forceinline__ u64 describe(const void* p) {
    return u64((shared_address(p) & 0x3ffff) >> 4) | u64(1) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
}

// The same, 16 numbers further.
#define NEXT_16 2

#define TEN(n) "%" #n "0, %" #n "1, %" #n "2, %" #n "3, %" #n "4, %" #n "5, %" #n "6, %" #n "7, %" #n "8, %" #n "9, "
#define IN_OUT_8(i) \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define IN_OUT_32(i) IN_OUT_8(i), IN_OUT_8(i + 8), IN_OUT_8(i + 16), IN_OUT_8(i + 24)
// 1, 1, 1, 0, 0: adds to the sums; neither factor is negated or transposed
#define MULTIPLY(n, sums, a, b) \
    "{.reg .pred p; setp.ne.b32 p, 1, 0; " \
    "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" sums "}, " a ", " b ", p, 1, 1, 0, 0;}"

// c (64, N) += a (64, 16) b (16, N), the columns of b one after another in memory: of c, lane l of warp w has row
// 16 w + l / 4, columns 2 (l % 4) and the next, then the same 8 rows below, then the same 8 columns further.
template <int N>
__device__ __forceinline__ void multiply_add(float (&c)[N / 2], u64 a, u64 b);

template <>
__device__ __forceinline__ void multiply_add<64>(float (&c)[32], u64 a, u64 b) {
    asm volatile(MULTIPLY(64, TEN() TEN(1) TEN(2) "%30, %31", "%32", "%33") : IN_OUT_32(0) : "l"(a), "l"(b));
}

template <>
__device__ __forceinline__ void multiply_add<128>(float (&c)[64], u64 a, u64 b) {
    asm volatile(MULTIPLY(128, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60, %61, %62, %63", "%64", "%65")
                 : IN_OUT_32(0), IN_OUT_32(32)
                 : "l"(a), "l"(b));
}

template <>
__device__ __forceinline__ void multiply_add<256>(float (&c)[128], u64 a, u64 b) {
    asm volatile(MULTIPLY(256,
                          TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11)
                          "%120, %121, %122, %123, %124, %125, %126, %127",
                          "%128", "%129")
                 : IN_OUT_32(0), IN_OUT_32(32), IN_OUT_32(64), IN_OUT_32(96)
                 : "l"(a), "l"(b));
}
