// The labels of a batch; of one block, so that the cursor moves when all have read it.

extern "C" __global__ void gather_labels(
        const int* labels, const int* order, long long* cursor, int* y, int N) {
    const long long start = *cursor;
    for (int n = threadIdx.x; n < N; n += blockDim.x) y[n] = labels[order[start + n]];
    __syncthreads();
    if (threadIdx.x == 0) *cursor = start + N;
}
