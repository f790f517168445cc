"""Losses: loss, gradient and totals in one launch of one block; each thread takes whole rows."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Block
from gpucnn.backend.kernels.reductions import BLOCK_SUM

__all__ = [
    "LABEL_TARGETS",
    "MEAN_SQUARED_ERROR",
    "REPORT",
    "SIGMOID_CROSS_ENTROPY",
    "SOFTMAX_CROSS_ENTROPY",
    "SOFT_CROSS_ENTROPY",
]

REPORT = """
struct Sums { double loss; double hits; double targets; };  // targets: samples that have one

__device__ void report(Sums own, Sums* shared, int N, double norm, T* loss, double* totals) {
    // Add up the threads' sums in a fixed order; the block's size is a power of two.
    shared[threadIdx.x] = own;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            shared[threadIdx.x].loss += shared[threadIdx.x + half].loss;
            shared[threadIdx.x].hits += shared[threadIdx.x + half].hits;
            shared[threadIdx.x].targets += shared[threadIdx.x + half].targets;
        }
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    *loss = shared[0].loss / norm;
    if (totals == 0) return;
    totals[0] += shared[0].loss;
    totals[1] += shared[0].hits;
    totals[2] += shared[0].targets;
    if (isfinite(totals[0])) totals[3] += N;
}

__device__ int argmax(const T* row, int K) {
    int best = 0;
    for (int k = 1; k < K; ++k)
        if (row[k] > row[best] || (row[k] != row[k] && row[best] == row[best])) best = k;  // the first NaN wins
    return best;
}

__device__ bool is_hit(const T* y, const T* t, int K, T boundary) {
    return K == 1 ? (y[0] > boundary) == (t[0] > T(0.5)) : argmax(y, K) == argmax(t, K);
}
"""
SOFTMAX_CROSS_ENTROPY = Block(
    "softmax_cross_entropy",
    REPORT
    + """
extern "C" __global__ void softmax_cross_entropy(
        const T* logits, const int* labels, T* loss, T* dx, double* totals, int N, int K) {
    __shared__ Sums shared[256];
    Sums sums = {0, 0, 0};
    for (int row = threadIdx.x; row < N; row += blockDim.x) {
        const T* z = logits + (long long)row * K;
        const int best = argmax(z, K), label = labels[row];
        T total = 0;
        for (int k = 0; k < K; ++k) total += exp(z[k] - z[best]);
        sums.loss += log(total) - (z[label] - z[best]);
        sums.hits += best == label;
        sums.targets += 1;
        if (dx != 0)
            for (int k = 0; k < K; ++k)
                dx[(long long)row * K + k] = (exp(z[k] - z[best]) / total - (k == label ? T(1) : T(0))) / N;
    }
    report(sums, shared, N, N, loss, totals);
}
""",
)
LABEL_TARGETS = Block(
    "label_targets",
    BLOCK_SUM
    + """
extern "C" __global__ void label_targets(
        const int* labels, const T* weights, int ignored, T* targets, T* norm, int N, int K) {
    __shared__ T shared[256];
    T own = 0;
    for (int row = threadIdx.x; row < N; row += blockDim.x) {
        const int label = labels[row];
        const bool has_target = label != ignored && label >= 0 && label < K;
        if (has_target) own += weights == 0 ? T(1) : weights[label];
        for (int k = 0; k < K; ++k) targets[(long long)row * K + k] = has_target && k == label;
    }
    const T sum = block_sum(own, shared);
    if (threadIdx.x == 0) *norm = sum > 0 ? sum : T(1);
}
""",
)
SOFT_CROSS_ENTROPY = Block(
    "soft_cross_entropy",
    REPORT
    + """
__device__ T wanted(T target, T keep, T share, const T* weights, int k) {
    return (keep * target + share) * (weights == 0 ? T(1) : weights[k]);
}

extern "C" __global__ void soft_cross_entropy(
        const T* logits, const T* targets, T* loss, T* dx, double* totals, int N, int K,
        const T* weights, double smoothing, const T* norm) {
    __shared__ Sums shared[256];
    Sums sums = {0, 0, 0};
    for (int row = threadIdx.x; row < N; row += blockDim.x) {
        const T* z = logits + (long long)row * K;
        const T* t = targets + (long long)row * K;
        const int best = argmax(z, K);
        bool has_target = false;
        T total = 0;
        for (int k = 0; k < K; ++k) {
            has_target = has_target || t[k] != 0;
            total += exp(z[k] - z[best]);
        }
        const T log_total = log(total), keep = 1 - smoothing, share = has_target ? smoothing / K : 0;
        T losses = 0, sum = 0;
        for (int k = 0; k < K; ++k) {
            const T q = wanted(t[k], keep, share, weights, k);
            if (q != 0) losses += q * (log_total - (z[k] - z[best]));
            sum += q;
        }
        sums.loss += losses;
        sums.hits += has_target && best == argmax(t, K);
        sums.targets += has_target;
        if (dx != 0)
            for (int k = 0; k < K; ++k) {
                const T q = wanted(t[k], keep, share, weights, k);
                dx[(long long)row * K + k] = (exp(z[k] - z[best]) / total * sum - q) / *norm;
            }
    }
    report(sums, shared, N, *norm, loss, totals);
}
""",
)
SIGMOID_CROSS_ENTROPY = Block(
    "sigmoid_cross_entropy",
    REPORT
    + """
extern "C" __global__ void sigmoid_cross_entropy(
        const T* logits, const T* targets, T* loss, T* dx, double* totals, int N, int K) {
    __shared__ Sums shared[256];
    Sums sums = {0, 0, 0};
    for (int row = threadIdx.x; row < N; row += blockDim.x) {
        const T* z = logits + (long long)row * K;
        const T* t = targets + (long long)row * K;
        T losses = 0;
        for (int k = 0; k < K; ++k) {
            const T e = exp(z[k] < T(0) ? z[k] : -z[k]);
            losses += (z[k] > T(0) ? z[k] : T(0)) - z[k] * t[k] + log1p(e);
            if (dx != 0) dx[(long long)row * K + k] = ((z[k] < T(0) ? e : T(1)) / (T(1) + e) - t[k]) / N;
        }
        sums.loss += losses;
        sums.hits += is_hit(z, t, K, T(0));
        sums.targets += 1;
    }
    report(sums, shared, N, N, loss, totals);
}
""",
)
MEAN_SQUARED_ERROR = Block(
    "mean_squared_error",
    REPORT
    + """
extern "C" __global__ void mean_squared_error(
        const T* outputs, const T* targets, T* loss, T* dx, double* totals, int N, int K) {
    __shared__ Sums shared[256];
    Sums sums = {0, 0, 0};
    for (int row = threadIdx.x; row < N; row += blockDim.x) {
        const T* y = outputs + (long long)row * K;
        const T* t = targets + (long long)row * K;
        T losses = 0;
        for (int k = 0; k < K; ++k) {
            const T difference = y[k] - t[k];
            losses += difference * difference;
            if (dx != 0) dx[(long long)row * K + k] = difference * (T(2) / ((T)N * K));
        }
        sums.loss += losses / K;
        sums.hits += is_hit(y, t, K, T(0.5));
        sums.targets += 1;
    }
    report(sums, shared, N, N, loss, totals);
}
""",
)
