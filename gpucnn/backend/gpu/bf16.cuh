// Rounding to bf16, and the product of two fragments.

typedef unsigned short Rounded;

#ifndef CUDA_EMULATION  // which brings these two instructions along
__device__ unsigned short to_bf16(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ void mma_bf16(float* sums, const unsigned* a, const unsigned* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ Rounded rounded(float value) { return to_bf16(value); }
__device__ void multiply(float* sums, const unsigned* a, const unsigned* b) { mma_bf16(sums, a, b); }
