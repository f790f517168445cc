"""The updates of the optimizers."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Block, Elementwise
from gpucnn.backend.kernels.reductions import BLOCK_SUM

__all__ = [
    "ADAGRAD_STEP",
    "ADAM_POWERS",
    "ADAM_STEP",
    "APPLY_SCHEDULED_RATE",
    "AVERAGE_STEP",
    "AVERAGE_WORTH",
    "CLIP_NORM",
    "MAX_SUMS",
    "RMSPROP_STEP",
    "SGD_STEP",
    "SQUARE_SUMS",
]

MAX_SUMS = 1024  # blocks that sum squares: enough to keep a large GPU busy, few enough for every block to add up

SGD_STEP = Elementwise(
    "sgd_step",
    "T g, raw T hyper, bool nesterov",
    "T w, T v",
    """
    const T rate = hyper[0], momentum = hyper[1], gradient = g + hyper[2] * w;
    v = momentum * v + gradient;
    w -= rate * (nesterov ? gradient + momentum * v : v);
    """,
)
ADAM_POWERS = Elementwise("adam_powers", "raw T hyper", "T powers", "powers *= hyper[1 + i]")
ADAM_STEP = Elementwise(
    "adam_step",
    "T g, raw T powers, raw T hyper, bool decoupled",
    "T w, T m, T v",
    """
    const T rate = hyper[0], beta1 = hyper[1], beta2 = hyper[2], eps = hyper[3], decay = hyper[4];
    const T gradient = decoupled ? g : g + decay * w;
    if (decoupled) w -= rate * decay * w;
    m = beta1 * m + (T(1) - beta1) * gradient;
    v = beta2 * v + (T(1) - beta2) * gradient * gradient;
    w -= rate * (m / (T(1) - powers[0])) / (sqrt(v / (T(1) - powers[1])) + eps);
    """,
)
RMSPROP_STEP = Elementwise(
    "rmsprop_step",
    "T g, raw T hyper",
    "T w, T v, T b",
    """
    const T rate = hyper[0], smoothing = hyper[1], eps = hyper[2], momentum = hyper[3], gradient = g + hyper[4] * w;
    v = smoothing * v + (T(1) - smoothing) * gradient * gradient;
    b = momentum * b + gradient / (sqrt(v) + eps);
    w -= rate * b;
    """,
)
ADAGRAD_STEP = Elementwise(
    "adagrad_step",
    "T g, raw T hyper",
    "T w, T v",
    """
    const T rate = hyper[0], eps = hyper[1], gradient = g + hyper[2] * w;
    v += gradient * gradient;
    w -= rate * gradient / (sqrt(v) + eps);
    """,
)
SQUARE_SUMS = Block(
    "square_sums",
    BLOCK_SUM
    + """
extern "C" __global__ void square_sums(const T* g, double* sums, long long n) {
    __shared__ double shared[256];
    double sum = 0;
    for (long long e = blockIdx.x * 256LL + threadIdx.x; e < n; e += gridDim.x * 256LL) sum += double(g[e]) * g[e];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
""",
)
CLIP_NORM = Block(
    "clip_norm",
    BLOCK_SUM
    + """
extern "C" __global__ void clip_norm(const double* sums, const T* limit, T* g, long long n) {
    // Launched with one block for each of the sums; all blocks add them up in the same order.
    __shared__ double shared[256];
    double sum = 0;
    for (int s = threadIdx.x; s < gridDim.x; s += 256) sum += sums[s];
    const double share = limit[0] / (sqrt(block_sum(sum, shared)) + 1e-6);
    if (share >= 1) return;
    for (long long e = blockIdx.x * 256LL + threadIdx.x; e < n; e += gridDim.x * 256LL)
        if (g[e] != T(0)) g[e] *= T(share);  // 0 stays 0 where the share is NaN
}
""",
)
APPLY_SCHEDULED_RATE = Elementwise(
    "apply_scheduled_rate",
    "raw T rates, int64 last",
    "T rate, int64 clock",
    "rate = rates[clock < last ? clock : last]; clock += 1",
)
AVERAGE_WORTH = Elementwise("average_worth", "T decay", "T total_weight", "total_weight = decay * total_weight + T(1)")
AVERAGE_STEP = Elementwise("average_step", "T w, raw T total_weight", "T mean", "mean += (w - mean) / total_weight[0]")
