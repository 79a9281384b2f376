// Rows of floats (F32, F16, BF16) times columns of floats.
#include "products.cuh"
#include "matvec.cuh"

template <class F>
struct Product : FloatProduct<F> {};

#define ENTRY(name, F, columns, blocks)                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, blocks) matvec_##name##_##columns(MATVEC_PARAMETERS(float)) { \
        matvec<Product<F>, columns>(MATVEC_ARGUMENTS, x);                                                   \
    }
#define ENTRIES(name, F) ENTRY(name, F, 1, 2) ENTRY(name, F, 4, 1) ENTRY(name, F, 8, 1)
ENTRIES(f32, F32)
ENTRIES(f16, F16)
ENTRIES(bf16, BF16)
