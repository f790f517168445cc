// The scaling of gradients whose norm is too large, in two launches.

extern "C" __global__ void square_sums(const T* g, double* sums, long long n) {
    __shared__ double shared[256];
    double sum = 0;
    for (long long e = blockIdx.x * 256LL + threadIdx.x; e < n; e += gridDim.x * 256LL) sum += double(g[e]) * g[e];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

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
