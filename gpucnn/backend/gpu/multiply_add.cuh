// Products of two tiles in the arithmetic of the arrays, by a block of 256 threads.

enum { PITCH = TILE + 4, TILE_SIZE = DEPTH * PITCH };  // from step to step; 4 more: other banks
typedef T Rounded;

__device__ Rounded rounded(T value) { return value; }
__device__ int slot(int line, int step) { return step * PITCH + line; }

struct Sums {  // each thread's, of 4 rows and 4 columns
    enum { COUNT = 16 };
    T values[COUNT];

    __device__ Sums() : values() {}
    __device__ int row(int n) const { return threadIdx.x / 16 * 4 + n / 4; }
    __device__ int column(int n) const { return threadIdx.x % 16 * 4 + n % 4; }

    __device__ void add(const Rounded* left, const Rounded* right) {
        #pragma unroll
        for (int step = 0; step < DEPTH; ++step) {
            #pragma unroll
            for (int n = 0; n < COUNT; ++n) values[n] += left[slot(row(n), step)] * right[slot(column(n), step)];
        }
    }
};
