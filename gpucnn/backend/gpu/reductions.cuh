// Sums and maxima over threads that work together, in a fixed order: of a block, or of one column of a block.

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

struct Place { int width, height, row, c, first, last; };

__device__ Place place(int M, int C, int rows, int columns) {
    // Where a thread is in its block of 256, which takes some rows, and at most `columns` columns, of a matrix (M, C).
    // Its threads lie in `height` rows of `width`, so that neighbours read neighbours. Those that are left over begin a
    // row of their own, which no sum includes.
    const int start = columns * blockIdx.x, width = min(C - start, columns), height = 256 / width;
    const int row = threadIdx.x / width, first = rows * blockIdx.y;
    return {width, height, row, start + (int)threadIdx.x % width, first + row, first + min(rows, M - first)};
}

__device__ T column_sum(T value, T* shared, Place at) {
    // Sum over the threads of one column, in a fixed order; all of them get it.
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int left = at.height, half; left > 1; left = half) {  // rows; each of one half takes in one of the other
        half = (left + 1) / 2;
        if (at.row + half < left) shared[threadIdx.x] += shared[threadIdx.x + half * at.width];
        __syncthreads();
    }
    const T sum = shared[threadIdx.x % at.width];
    __syncthreads();
    return sum;
}

__device__ void take_rows(T* values, const T* __restrict__ x, long long apart, int m, Place at) {
    // Eight rows of a thread, from row m, at x, on; all are on their way at a time. Those beyond its last are 0.
    #pragma unroll
    for (int n = 0; n < 8; ++n) values[n] = m + n * at.height < at.last ? x[n * apart] : T(0);
}
