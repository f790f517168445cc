"""Sums and maxima over the threads of a block, in a fixed order."""

from __future__ import annotations

__all__ = ["BLOCK_MAX", "BLOCK_SUM"]

BLOCK_SUM = """
template <typename S> __device__ S block_sum(S value, S* shared) {
    // Sum of one value per thread, in a fixed order; the block's size is a power of two.
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    const S sum = shared[0];
    __syncthreads();
    return sum;
}
"""
BLOCK_MAX = """
__device__ T block_max(T value, T* shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = max(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    const T largest = shared[0];
    __syncthreads();
    return largest;
}
"""
