"""Products of two tiles by one block of threads, in the arithmetic of the arrays or on tensor cores.

A tile has TILE lines of DEPTH steps: lines are rows of the left factor or columns of the right one, steps are what is
summed over. Each of the sources here says how a tile lies in shared memory (`Rounded`, `rounded`, `slot`), how many
threads share the work, and how they multiply (`Sums`):

    sums[row, column] += sum over the steps of left[row, step] * right[column, step]

Tensor cores multiply 32-bit words: one float each that is rounded to tf32, with 10 bits of the mantissa, or two that
are rounded to bf16, with 7. They add in float32. Which lane of a warp holds what of a 16 x 8 product stands in the PTX
manual under "Matrix Fragments for mma.m16n8k8" and "m16n8k16"; counted in words, the two are alike.
"""

from __future__ import annotations

__all__ = ["BF16", "DEPTH", "MULTIPLY_ADD", "TENSOR_CORES_SINCE", "TF32", "TILE"]

TENSOR_CORES_SINCE = 80  # the first architecture that multiplies tf32 and bf16
TILE, DEPTH = 64, 16
CONSTANTS = f"enum {{ TILE = {TILE}, DEPTH = {DEPTH} }};\n"
MULTIPLY_ADD = f"""{CONSTANTS}
enum {{ THREADS = 256, PITCH = TILE + 4, TILE_SIZE = DEPTH * PITCH }};  // from step to step; 4 more: other banks
typedef T Rounded;

__device__ Rounded rounded(T value) {{ return value; }}
__device__ int slot(int line, int step) {{ return step * PITCH + line; }}

struct Sums {{  // each thread's, of 4 rows and 4 columns
    enum {{ COUNT = 16 }};
    T values[COUNT];

    __device__ Sums() : values() {{}}
    __device__ int row(int n) const {{ return threadIdx.x / 16 * 4 + n / 4; }}
    __device__ int column(int n) const {{ return threadIdx.x % 16 * 4 + n % 4; }}

    __device__ void add(const Rounded* left, const Rounded* right) {{
        #pragma unroll
        for (int step = 0; step < DEPTH; ++step) {{
            #pragma unroll
            for (int n = 0; n < COUNT; ++n) values[n] += left[slot(row(n), step)] * right[slot(column(n), step)];
        }}
    }}
}};
"""
FRAGMENTS = """
enum { THREADS = 128, WORDS = DEPTH * sizeof(Rounded) / 4 };
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
"""


def tensor_cores(kind: str, shape: str, conversion: str, c_type: str, register: str) -> str:
    """Return the source for one kind of rounding; the emulation brings the two instructions along."""
    return f"""{CONSTANTS}
typedef {c_type} Rounded;
#ifndef CUDA_EMULATION
__device__ {c_type} to_{kind}(float value) {{
    {c_type} bits;
    asm("{conversion}.{kind}.f32 %0, %1;" : "={register}"(bits) : "f"(value));
    return bits;
}}
__device__ void mma_{kind}(float* sums, const unsigned* a, const unsigned* b) {{
    asm volatile("mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 "
        "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
#endif
__device__ Rounded rounded(float value) {{ return to_{kind}(value); }}
__device__ void multiply(float* sums, const unsigned* a, const unsigned* b) {{ mma_{kind}(sums, a, b); }}
{FRAGMENTS}"""


TF32 = tensor_cores("tf32", "m16n8k8", "cvt.rna", "unsigned", "r")
BF16 = tensor_cores("bf16", "m16n8k16", "cvt.rn", "unsigned short", "h")
