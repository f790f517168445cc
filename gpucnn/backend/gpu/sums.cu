// Sums of the rows of a matrix, in two stages.
//
// In the first, blocks of threads reduce some rows each, which gives every column as many partial sums as there are
// blocks of rows; they lie together, as (columns, blocks). In the second a block of threads adds up those of one
// column. Which block sums up what depends on the shape alone, and so do the bits of the result.

extern "C" __global__ void partial_sums(
        const T* __restrict__ x, T* __restrict__ partials, int M, int C, int rows, int columns) {
    __shared__ T shared[256];
    const Place at = place(M, C, rows, columns);
    const long long apart = (long long)at.height * C;  // the rows of a thread
    T sum = 0;
    x += (long long)at.first * C + at.c;
    #pragma unroll 1
    for (int m = at.first; m < at.last; m += 8 * at.height, x += 8 * apart) {
        T values[8];
        take_rows(values, x, apart, m, at);
        #pragma unroll
        for (int n = 0; n < 8; ++n) sum += values[n];
    }
    sum = column_sum(sum, shared, at);
    if (at.row == 0) partials[(long long)at.c * gridDim.y + blockIdx.y] = sum;
}

extern "C" __global__ void add_partials(const T* partials, T* first, T* second, int blocks) {
    // Of (columns, blocks) to `first`; where the grid has two layers, of a second such matrix to `second`.
    __shared__ T shared[256];
    partials += ((long long)blockIdx.y * gridDim.x + blockIdx.x) * blocks;
    T sum = 0;
    #pragma unroll
    for (int n = 0; n < EACH; ++n) {
        const int b = threadIdx.x + 256 * n;
        sum += b < blocks ? partials[b] : T(0);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) (blockIdx.y == 0 ? first : second)[blockIdx.x] = sum;
}
