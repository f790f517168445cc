// Batch normalization: sums over each channel in two stages.
//
// Arrays are (M, C) here, M rows of C channels. In the first stage every block of threads reduces some rows to two
// numbers for each channel; in the second, one block for each channel reduces those `partials`, (2, C, blocks). Sums
// over rows are made in the same way (`sums.cu`), and the second stage of the gradients is theirs.

extern "C" __global__ void partial_moments(
        const T* __restrict__ x, T* __restrict__ partials, int M, int C, int rows, int columns) {
    // The mean of the block's n rows, and the sum of the squares of their distances from it, which is
    // sum d^2 - (sum d)^2 / n for distances d from any number. Here it is the mean of those m rows that the threads
    // take first: then sum d^2 is at most n/m times the result, so that little is lost by the difference.
    __shared__ T shared[256];
    const Place at = place(M, C, rows, columns);
    const int count = min(rows, M - rows * (int)blockIdx.y);
    const long long apart = (long long)at.height * C;  // the rows of a thread
    T values[8], sum = 0, squares = 0;
    x += (long long)at.first * C + at.c;
    take_rows(values, x, apart, at.first, at);
    #pragma unroll
    for (int n = 0; n < 8; ++n) sum += values[n];
    const T centre = column_sum(sum, shared, at) / min(8 * at.height, count);
    sum = 0;
    #pragma unroll 1
    for (int m = at.first; m < at.last; m += 8 * at.height) {
        #pragma unroll
        for (int n = 0; n < 8; ++n) {
            const T distance = m + n * at.height < at.last ? values[n] - centre : T(0);
            sum += distance;
            squares += distance * distance;
        }
        x += 8 * apart;
        take_rows(values, x, apart, m + 8 * at.height, at);
    }
    sum = column_sum(sum, shared, at);
    squares = column_sum(squares, shared, at);
    if (at.row != 0) return;
    const T offset = sum / count;
    partials[(long long)at.c * gridDim.y + blockIdx.y] = centre + offset;
    partials[(long long)(C + at.c) * gridDim.y + blockIdx.y] = squares - sum * offset;
}

extern "C" __global__ void batch_norm_moments(
        const T* partials, T* mean_rstd, T* running, T momentum, T eps, int M, int rows, int blocks) {
    // Squares of distances from the mean of all: those from the blocks' own, and of these from the mean of all.
    __shared__ T shared[256];
    const int C = gridDim.x, c = blockIdx.x;
    T means[EACH], parts[EACH], sum = 0, squares = 0;
    int counts[EACH];
    #pragma unroll
    for (int n = 0; n < EACH; ++n) {
        const int b = threadIdx.x + 256 * n;
        means[n] = b < blocks ? partials[(long long)c * blocks + b] : T(0);
        parts[n] = b < blocks ? partials[(long long)(C + c) * blocks + b] : T(0);
        counts[n] = b < blocks ? min(rows, M - rows * b) : 0;
    }
    #pragma unroll
    for (int n = 0; n < EACH; ++n) sum += means[n] * counts[n];
    const T mean = block_sum(sum, shared) / M;
    #pragma unroll
    for (int n = 0; n < EACH; ++n) squares += parts[n] + (means[n] - mean) * (means[n] - mean) * counts[n];
    squares = block_sum(squares, shared);
    if (threadIdx.x != 0) return;
    mean_rstd[c] = mean;
    mean_rstd[C + c] = T(1) / sqrt(squares / M + eps);
    running[c] = (T(1) - momentum) * running[c] + momentum * mean;
    running[C + c] = (T(1) - momentum) * running[C + c] + momentum * (squares / max(M - 1, 1));
}

extern "C" __global__ void partial_gradients(
        const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ mean_rstd, T* __restrict__ partials,
        int M, int C, int rows, int columns) {
    __shared__ T shared[256];
    const Place at = place(M, C, rows, columns);
    const T mean = mean_rstd[at.c];
    T products = 0, sum = 0;
    #pragma unroll 4
    for (int m = at.first; m < at.last; m += at.height) {
        const T gradient = dy[(long long)m * C + at.c];
        products += gradient * (x[(long long)m * C + at.c] - mean);
        sum += gradient;
    }
    products = column_sum(products, shared, at);
    sum = column_sum(sum, shared, at);
    if (at.row != 0) return;
    partials[(long long)at.c * gridDim.y + blockIdx.y] = products * mean_rstd[C + at.c];
    partials[(long long)(C + at.c) * gridDim.y + blockIdx.y] = sum;
}
