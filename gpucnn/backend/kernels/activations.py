"""Activations: one element each, or one block of threads for each row."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Block, Elementwise
from gpucnn.backend.kernels.reductions import BLOCK_MAX, BLOCK_SUM

__all__ = ["GELU", "GELU_DX", "RELU", "RELU_DX", "SIGMOID", "SIGMOID_DX", "SOFTMAX", "SOFTMAX_DX", "TANH", "TANH_DX"]

# A GPU compares a denormal number as if it were 0. What is not above 0 becomes 0, so that nothing negative stays and
# RELU_DX agrees about what is positive; a NaN stays. It is so wherever an operation rectifies.
RELU = Elementwise("relu", "T x", "T y", "y = x <= T(0) ? T(0) : x")
RELU_DX = Elementwise("relu_dx", "T dy, T y", "T dx", "dx = y > T(0) ? dy : T(0)")
SIGMOID = Elementwise(
    "sigmoid", "T x", "T y", "const T e = exp(x < T(0) ? x : -x); y = (x < T(0) ? e : T(1)) / (T(1) + e)"
)
SIGMOID_DX = Elementwise("sigmoid_dx", "T dy, T y", "T dx", "dx = dy * y * (T(1) - y)")
TANH = Elementwise("tanh_forward", "T x", "T y", "y = tanh(x)")
TANH_DX = Elementwise("tanh_dx", "T dy, T y", "T dx", "dx = dy * (T(1) - y * y)")
GELU_SIGMOID = """
    template <class T> __device__ T gelu_sigmoid(T x) {  // (1 + tanh(u))/2, without overflow for |x| <= 40
        return T(1) / (T(1) + exp(T(-1.5957691216057308) * x * (T(1) + T(0.044715) * x * x)));
    }
"""
BOUNDED = "const T bounded = x < T(-40) ? T(-40) : x > T(40) ? T(40) : x;  // there Phi is 0 and 1, and a NaN stays"
GELU = Elementwise(
    "gelu",
    "T x, bool approximate",
    "T y",
    f"{BOUNDED}\ny = (x > T(0) ? x : bounded) * (approximate ? gelu_sigmoid<T>(bounded) : normcdf(bounded))",
    GELU_SIGMOID,
)
GELU_DX = Elementwise(
    "gelu_dx",
    "T dy, T x, bool approximate",
    "T dx",
    f"""{BOUNDED}
    const T Phi = approximate ? gelu_sigmoid<T>(bounded) : normcdf(bounded);
    const T phi = approximate
        ? T(1.5957691216057308) * (T(1) + T(3 * 0.044715) * bounded * bounded) * Phi * (T(1) - Phi)
        : T(0.3989422804014327) * exp(T(-0.5) * bounded * bounded);
    dx = dy * (Phi + bounded * phi);
    """,
    GELU_SIGMOID,
)
SOFTMAX = Block(
    "softmax",
    BLOCK_SUM
    + BLOCK_MAX
    + """
extern "C" __global__ void softmax(const T* x, T* y, int K) {
    __shared__ T shared[128];
    x += (long long)blockIdx.x * K;
    y += (long long)blockIdx.x * K;
    T largest = x[0];
    for (int k = threadIdx.x; k < K; k += blockDim.x) largest = max(largest, x[k]);
    largest = block_max(largest, shared);
    T sum = 0;
    for (int k = threadIdx.x; k < K; k += blockDim.x) sum += exp(x[k] - largest);
    sum = block_sum(sum, shared);
    for (int k = threadIdx.x; k < K; k += blockDim.x) y[k] = exp(x[k] - largest) / sum;
}
""",
    threads=128,
)
SOFTMAX_DX = Block(
    "softmax_dx",
    BLOCK_SUM
    + """
extern "C" __global__ void softmax_dx(const T* dy, const T* y, T* dx, int K) {
    __shared__ T shared[128];
    dy += (long long)blockIdx.x * K;
    y += (long long)blockIdx.x * K;
    dx += (long long)blockIdx.x * K;
    T sum = 0;
    for (int k = threadIdx.x; k < K; k += blockDim.x) sum += dy[k] * y[k];
    sum = block_sum(sum, shared);
    for (int k = threadIdx.x; k < K; k += blockDim.x) dx[k] = y[k] * (dy[k] - sum);
}
""",
    threads=128,
)
