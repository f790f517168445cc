// Rounding to tf32, and the product of two fragments.

typedef unsigned Rounded;

#ifndef CUDA_EMULATION  // which brings these two instructions along
__device__ unsigned to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

__device__ void mma_tf32(float* sums, const unsigned* a, const unsigned* b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ Rounded rounded(float value) { return to_tf32(value); }
__device__ void multiply(float* sums, const unsigned* a, const unsigned* b) { mma_tf32(sums, a, b); }
