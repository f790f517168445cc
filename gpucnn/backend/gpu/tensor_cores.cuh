// Products of two tiles on tensor cores, by a block of 128 threads: four warps.
//
// Tensor cores multiply 32-bit words: one float each that is rounded to tf32, with 10 bits of the mantissa, or two that
// are rounded to bf16, with 7. They add in float32. Which lane of a warp holds what of a 16 x 8 product stands in the
// PTX manual under "Matrix Fragments for mma.m16n8k8" and "m16n8k16"; counted in words, the two are alike.

enum { WORDS = DEPTH * sizeof(Rounded) / 4 };
enum { PITCH = (WORDS + 4) * 4 / sizeof(Rounded), TILE_SIZE = TILE * PITCH };  // from line to line; 4 words more

__device__ int slot(int line, int step) { return line * PITCH + step; }
__device__ unsigned word(const Rounded* tile, int line, int n) { return ((const unsigned*)(tile + line * PITCH))[n]; }

struct Sums {  // each warp's, of 32 rows and 32 columns: 2 by 4 products of 16 rows and 8 columns
    enum { COUNT = 32 };
    float values[COUNT];
    const int lane, first_row, first_column;

    __device__ Sums()
        : values(), lane(threadIdx.x % 32), first_row(threadIdx.x / 64 * 32), first_column(threadIdx.x / 32 % 2 * 32) {}
    __device__ int row(int n) const { return first_row + n / 16 * 16 + n / 2 % 2 * 8 + lane / 4; }
    __device__ int column(int n) const { return first_column + n / 4 % 4 * 8 + lane % 4 * 2 + n % 2; }

    __device__ void add(const Rounded* left, const Rounded* right) {
        #pragma unroll
        for (int first = 0; first < WORDS; first += 8) {
            unsigned a[2][4], b[4][2];
            #pragma unroll
            for (int n = 0; n < 8; ++n) {
                const int in_a = first + lane % 4 + n / 2 % 2 * 4, in_b = first + lane % 4 + n % 2 * 4;
                a[n / 4][n % 4] = word(left, first_row + n / 4 * 16 + n % 2 * 8 + lane / 4, in_a);
                b[n / 2][n % 2] = word(right, first_column + n / 2 * 8 + lane / 4, in_b);
            }
            #pragma unroll
            for (int n = 0; n < 8; ++n) multiply(values + 4 * n, a[n / 4], b[n % 4]);
        }
    }
};
