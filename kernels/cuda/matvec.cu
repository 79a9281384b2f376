// Rows of blocks of FORMAT times columns of quantized activations.
#include "products.cuh"
#include "matvec.cuh"

struct Product : BlockProduct<FORMAT> {};

#define JOIN(a, b, c) a##_##b##_##c
#define ENTRY(format, columns) JOIN(matvec, format, columns)

// Bounds keep registers from being spilled for the sake of more blocks: two blocks for one column, as memory needs them.

extern "C" __global__ void __launch_bounds__(WARPS* WARP, 2) ENTRY(NAME, 1)(MATVEC_PARAMETERS(Q8)) {
    matvec<Product, 1>(MATVEC_ARGUMENTS, x);
}
extern "C" __global__ void __launch_bounds__(WARPS* WARP, 1) ENTRY(NAME, 4)(MATVEC_PARAMETERS(Q8)) {
    matvec<Product, 4>(MATVEC_ARGUMENTS, x);
}
extern "C" __global__ void __launch_bounds__(WARPS* WARP) ENTRY(NAME, 8)(MATVEC_PARAMETERS(Q8)) {
    matvec<Product, 8>(MATVEC_ARGUMENTS, x);
}
