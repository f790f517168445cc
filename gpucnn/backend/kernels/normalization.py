"""Batch normalization: sums over each channel in two stages, then one element after another.

Arrays are (M, C) here, M rows of C channels. In the first stage every block of threads reduces some rows of up to 256
channels to two numbers for each channel; its threads lie in rows too, so that neighbours read neighbours. In the second
stage one block for each channel reduces those `partials`, (2, C, blocks).
"""

from __future__ import annotations

from gpucnn.backend.kernels.records import Block, Elementwise
from gpucnn.backend.kernels.reductions import BLOCK_SUM

__all__ = [
    "BATCH_NORM",
    "BATCH_NORM_DX",
    "BATCH_NORM_GRADIENTS",
    "BATCH_NORM_INFERENCE",
    "BATCH_NORM_MOMENTS",
    "CHANNELS",
    "FOLDED_BIAS",
    "FOLDED_KERNELS",
    "PARTIAL_GRADIENTS",
    "PARTIAL_MOMENTS",
]

CHANNELS = 256  # that a block of the first stage takes at most, one for each of its threads

PLACE = """
struct Place { int width, height, row, c, first, last; };

__device__ Place place(int M, int C, int rows) {
    // Where a thread is in its block, whose threads lie in `height` rows of `width`, and which rows the block takes.
    // The threads that are left over begin a row of their own, which no sum includes.
    const int start = 256 * blockIdx.y, width = min(C - start, 256), height = 256 / width;
    const int row = threadIdx.x / width, first = rows * blockIdx.x, last = min(first + rows, M);
    return {width, height, row, start + (int)threadIdx.x % width, first + row, last};
}

__device__ T channel_sum(T value, T* shared, Place at) {
    // Sum over the threads of one channel, in a fixed order; all of them get it.
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (at.row < half && at.row + half < at.height) shared[threadIdx.x] += shared[threadIdx.x + half * at.width];
        __syncthreads();
    }
    const T sum = shared[threadIdx.x % at.width];
    __syncthreads();
    return sum;
}
"""
PARTIAL_MOMENTS = Block(
    "partial_moments",
    PLACE
    + """
extern "C" __global__ void partial_moments(const T* x, T* partials, int M, int C, int rows) {
    // The mean of the block's rows, and the sum of the squares of their distances from it.
    __shared__ T shared[256];
    const Place at = place(M, C, rows);
    T sum = 0, squares = 0;
    for (int m = at.first; m < at.last; m += at.height) sum += x[(long long)m * C + at.c];
    const int count = min(rows, M - rows * (int)blockIdx.x);
    const T mean = channel_sum(sum, shared, at) / count;
    for (int m = at.first; m < at.last; m += at.height) {
        const T distance = x[(long long)m * C + at.c] - mean;
        squares += distance * distance;
    }
    squares = channel_sum(squares, shared, at);
    if (at.row != 0) return;
    partials[(long long)at.c * gridDim.x + blockIdx.x] = mean;
    partials[(long long)(C + at.c) * gridDim.x + blockIdx.x] = squares;
}
""",
    threads=CHANNELS,
)
BATCH_NORM_MOMENTS = Block(
    "batch_norm_moments",
    BLOCK_SUM
    + """
extern "C" __global__ void batch_norm_moments(
        const T* partials, T* moments, T* running, T momentum, T eps, int M, int rows, int blocks) {
    // Squares of distances from the mean of all: those from the blocks' own, and of these from the mean of all.
    __shared__ T shared[64];
    const int C = gridDim.x, c = blockIdx.x;
    const T* means = partials + (long long)c * blocks;
    const T* parts = partials + (long long)(C + c) * blocks;
    T sum = 0, squares = 0;
    for (int b = threadIdx.x; b < blocks; b += blockDim.x) sum += means[b] * min(rows, M - rows * b);
    const T mean = block_sum(sum, shared) / M;
    for (int b = threadIdx.x; b < blocks; b += blockDim.x)
        squares += parts[b] + (means[b] - mean) * (means[b] - mean) * min(rows, M - rows * b);
    squares = block_sum(squares, shared);
    if (threadIdx.x != 0) return;
    moments[c] = mean;
    moments[C + c] = T(1) / sqrt(squares / M + eps);
    running[c] = (T(1) - momentum) * running[c] + momentum * mean;
    running[C + c] = (T(1) - momentum) * running[C + c] + momentum * (squares / max(M - 1, 1));
}
""",
    threads=64,
)
PARTIAL_GRADIENTS = Block(
    "partial_gradients",
    PLACE
    + """
extern "C" __global__ void partial_gradients(
        const T* dy, const T* x, const T* moments, T* partials, int M, int C, int rows) {
    __shared__ T shared[256];
    const Place at = place(M, C, rows);
    const T mean = moments[at.c];
    T products = 0, sum = 0;
    for (int m = at.first; m < at.last; m += at.height) {
        const T gradient = dy[(long long)m * C + at.c];
        products += gradient * (x[(long long)m * C + at.c] - mean);
        sum += gradient;
    }
    products = channel_sum(products, shared, at);
    sum = channel_sum(sum, shared, at);
    if (at.row != 0) return;
    partials[(long long)at.c * gridDim.x + blockIdx.x] = products * moments[C + at.c];
    partials[(long long)(C + at.c) * gridDim.x + blockIdx.x] = sum;
}
""",
    threads=CHANNELS,
)
BATCH_NORM_GRADIENTS = Block(
    "batch_norm_gradients",
    BLOCK_SUM
    + """
extern "C" __global__ void batch_norm_gradients(const T* partials, T* dgamma, T* dbeta, int blocks) {
    __shared__ T shared[64];
    const int C = gridDim.x, c = blockIdx.x;
    T products = 0, sum = 0;
    for (int b = threadIdx.x; b < blocks; b += blockDim.x) {
        products += partials[(long long)c * blocks + b];
        sum += partials[(long long)(C + c) * blocks + b];
    }
    products = block_sum(products, shared);
    sum = block_sum(sum, shared);
    if (threadIdx.x != 0) return;
    dgamma[c] = products;
    dbeta[c] = sum;
}
""",
    threads=64,
)
BATCH_NORM = Elementwise(
    "batch_norm", "T x, T mean, T inverse, T gamma, T beta", "T y", "y = (x - mean) * (gamma * inverse) + beta"
)
BATCH_NORM_DX = Elementwise(
    "batch_norm_dx",
    "T dy, T x, T mean, T inverse, T gamma, T dgamma, T dbeta, int32 M",
    "T dx",
    "dx = gamma * inverse * (dy - (dbeta + (x - mean) * inverse * dgamma) / M)",
)
BATCH_NORM_INFERENCE = Elementwise(
    "batch_norm_inference",
    "T x, T mean, T variance, T gamma, T beta, T eps",
    "T y",
    "y = (x - mean) * (gamma / sqrt(variance + eps)) + beta",
)
FOLDED_KERNELS = Elementwise(
    "folded_kernels", "T w, T variance, T gamma, T eps", "T folded", "folded = w * (gamma / sqrt(variance + eps))"
)
FOLDED_BIAS = Elementwise(
    "folded_bias",
    "T b, T mean, T variance, T gamma, T beta, T eps",
    "T folded",
    "folded = (b - mean) * (gamma / sqrt(variance + eps)) + beta",
)
