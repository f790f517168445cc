// Activations of whole rows: one block of threads for each.

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
