// Convolution as a matrix product whose left factor is never written: implicit GEMM.
//
//     y  (N*OH*OW, OC) = columns   (N*OH*OW, KH*KW*C)  w  (KH*KW*C, OC)
//     dx (N*H*W, C)    = errors    (N*H*W, KH*KW*OC)   w' (KH*KW*OC, C)
//     dw (KH*KW*C, OC) = columns^T (KH*KW*C, N*OH*OW)  dy (N*OH*OW, OC)
//
// `columns` is what `im2col` would write. A row of `errors` has, for each tap, the dy of the window that meets the
// pixel by that tap, or zeros where there is none; w' is w with its last two axes exchanged. A block of threads
// computes one tile of a result from tiles of both factors, which it copies to shared memory; the three kernels differ
// only in how they find an element of a factor.
//
// In front of this goes the arithmetic, `multiply_add.cuh`, or `tf32.cuh` or `bf16.cuh` with `tensor_cores.cuh`. A tile
// has TILE lines of DEPTH steps: lines are rows of the left factor or columns of the right one, steps are what is
// summed over. The arithmetic says how a tile lies in shared memory (`Rounded`, `rounded`, `slot`), and how the THREADS
// of a block multiply two of them (`Sums`):
//
//     sums[row, column] += sum over the steps of left[row, step] * right[column, step]
//
// A thread divides to find what it needs of a line once (`Line`), and of a step once for each tile (`Step`); from these
// two it finds an element without a division. `STEPS_ARE_NEIGHBOURS` says which of them is contiguous in memory, so
// that neighbouring threads read neighbours. Offsets are unsigned: one alone may point into padding, their sum does
// not.

struct Sizes { int N, OC, H, W, C, OH, OW, KH, KW, SH, SW, top, left, DH, DW; };
struct Place { unsigned offset; int h, w, phase; };  // `phase` is for `Errors` alone

__device__ bool inside(int h, int w, int H, int W) { return h >= 0 && h < H && w >= 0 && w < W; }

struct Matrix {  // as it lies in memory, (steps, columns)
    typedef int Line;
    typedef const T* Step;
    enum { STEPS_ARE_NEIGHBOURS = false };
    const T* matrix;
    int columns;

    __device__ Line line(int column) const { return column; }
    __device__ Step step(int k) const { return matrix + (long long)k * columns; }
    __device__ T at(Line column, Step row) const { return row[column]; }
};

struct Columns {  // those of im2col: a line for each window (image, oh, ow), a step for each tap (u, v, c)
    typedef Place Line;
    typedef Place Step;
    enum { STEPS_ARE_NEIGHBOURS = true };
    const T* x;
    Sizes s;

    __device__ Place line(int m) const {
        const int ow = m % s.OW, oh = m / s.OW % s.OH, image = m / s.OW / s.OH;
        const int h = oh * s.SH - s.top, w = ow * s.SW - s.left;
        return {((unsigned)(image * s.H + h) * s.W + w) * s.C, h, w, 0};
    }
    __device__ Place step(int k) const {
        const int c = k % s.C, v = k / s.C % s.KW, u = k / s.C / s.KW;
        const int h = u * s.DH, w = v * s.DW;
        return {((unsigned)h * s.W + w) * s.C + c, h, w, 0};
    }
    __device__ T at(Place window, Place tap) const {
        return inside(window.h + tap.h, window.w + tap.w, s.H, s.W) ? x[window.offset + tap.offset] : T(0);
    }
};

struct TransposedColumns {
    typedef Place Line;
    typedef Place Step;
    enum { STEPS_ARE_NEIGHBOURS = false };
    const Columns columns;

    __device__ Place line(int m) const { return columns.step(m); }
    __device__ Place step(int k) const { return columns.line(k); }
    __device__ T at(Place tap, Place window) const { return columns.at(window, tap); }
};

struct Errors {  // a line for each pixel (image, h, w), a step for each tap (u, v, o)
    typedef Place Line;
    typedef Place Step;
    enum { STEPS_ARE_NEIGHBOURS = true };
    const T* dy;
    Sizes s;

    // The window oh meets pixel h by tap u where oh*SH + u*DH = h + top: where both numbers leave the same rest when
    // divided by SH, and oh is the difference of the quotients.
    __device__ Place line(int m) const {
        const int w = m % s.W + s.left, h = m / s.W % s.H + s.top, image = m / s.W / s.H;
        const int oh = h / s.SH, ow = w / s.SW;
        return {((unsigned)(image * s.OH + oh) * s.OW + ow) * s.OC, oh, ow, h % s.SH * s.SW + w % s.SW};
    }
    __device__ Place step(int k) const {
        const int o = k % s.OC, w = k / s.OC % s.KW * s.DW, h = k / s.OC / s.KW * s.DH;
        const int oh = h / s.SH, ow = w / s.SW;
        return {o - ((unsigned)oh * s.OW + ow) * s.OC, oh, ow, h % s.SH * s.SW + w % s.SW};
    }
    __device__ T at(Place pixel, Place tap) const {
        const bool meets = pixel.phase == tap.phase && inside(pixel.h - tap.h, pixel.w - tap.w, s.OH, s.OW);
        return meets ? dy[pixel.offset + tap.offset] : T(0);
    }
};

struct ExchangedKernels {  // a line for each channel c, a step for each tap (u, v, o)
    typedef const T* Line;
    typedef long long Step;
    enum { STEPS_ARE_NEIGHBOURS = true };
    const T* w;
    Sizes s;

    __device__ Line line(int c) const { return w + (long long)c * s.OC; }
    __device__ Step step(int k) const { return (long long)(k / s.OC) * s.C * s.OC + k % s.OC; }
    __device__ T at(Line kernels, Step tap) const { return kernels[tap]; }
};

// While a tile is multiplied, the next is on its way from memory to the threads' registers; and as there is room for
// two tiles of each factor, those that are being written are never those that are being read, and one barrier is
// enough.

template <class Factor> struct Share {
    // What a thread carries of each tile of a factor: one step of COUNT lines that lie APART from each other. Of 256
    // threads each carries 4 lines, 16 apart.
    enum { COUNT = TILE * DEPTH / THREADS, APART = TILE / COUNT };
    const Factor factor;
    const int own_step, own_line, lines;  // the first of its lines in a tile, and how many the tile has
    typename Factor::Line places[COUNT];
    T values[COUNT];

    __device__ Share(Factor factor, int first, int all)
        : factor(factor),
          own_step(Factor::STEPS_ARE_NEIGHBOURS ? threadIdx.x % DEPTH : threadIdx.x / APART),
          own_line(Factor::STEPS_ARE_NEIGHBOURS ? threadIdx.x / DEPTH : threadIdx.x % APART),
          lines(all - first) {
        #pragma unroll
        for (int n = 0; n < COUNT; ++n) places[n] = factor.line(first + own_line + n * APART);
    }
    __device__ void fetch(int first, int last) {
        const int k = first + own_step;
        const typename Factor::Step step = factor.step(k);
        #pragma unroll
        for (int n = 0; n < COUNT; ++n)
            values[n] = k < last && own_line + n * APART < lines ? factor.at(places[n], step) : T(0);
    }
    __device__ void store(Rounded* tile) const {
        #pragma unroll
        for (int n = 0; n < COUNT; ++n) tile[slot(own_line + n * APART, own_step)] = rounded(values[n]);
    }
};

template <class Left, class Right>
__device__ Sums product(Left left, int rows, Right right, int columns, int first, int last) {
    // The block's tile of the product (rows, columns), summed over the steps from first to last.
    __shared__ __align__(16) Rounded left_tiles[2][TILE_SIZE], right_tiles[2][TILE_SIZE];
    Share<Left> left_share(left, TILE * blockIdx.x, rows);
    Share<Right> right_share(right, TILE * blockIdx.y, columns);
    Sums sums;
    left_share.fetch(first, last);
    right_share.fetch(first, last);
    for (int k = first, turn = 0; k < last; k += DEPTH, turn ^= 1) {
        left_share.store(left_tiles[turn]);
        right_share.store(right_tiles[turn]);
        __syncthreads();
        left_share.fetch(k + DEPTH, last);
        right_share.fetch(k + DEPTH, last);
        sums.add(left_tiles[turn], right_tiles[turn]);
    }
    return sums;
}

__device__ void write(const Sums& sums, T* out, int rows, int columns, const T* b, bool relu) {
    #pragma unroll
    for (int n = 0; n < Sums::COUNT; ++n) {
        const int m = TILE * blockIdx.x + sums.row(n), o = TILE * blockIdx.y + sums.column(n);
        if (m >= rows || o >= columns) continue;
        const T value = sums.values[n] + (b == 0 ? T(0) : b[o]);
        out[(long long)m * columns + o] = relu && value <= T(0) ? T(0) : value;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) implicit_conv2d(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
        int N, int OC, int H, int W, int C, int OH, int OW, int KH, int KW,
        int SH, int SW, int top, int left, int DH, int DW, int relu) {
    const Sizes s = {N, OC, H, W, C, OH, OW, KH, KW, SH, SW, top, left, DH, DW};
    const int M = N * OH * OW;
    write(product(Columns{x, s}, M, Matrix{w, OC}, OC, 0, KH * KW * C), y, M, OC, b, relu);
}

extern "C" __global__ void __launch_bounds__(THREADS) implicit_conv2d_dx(
        const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx,
        int N, int OC, int H, int W, int C, int OH, int OW, int KH, int KW,
        int SH, int SW, int top, int left, int DH, int DW) {
    const Sizes s = {N, OC, H, W, C, OH, OW, KH, KW, SH, SW, top, left, DH, DW};
    const int M = N * H * W;
    write(product(Errors{dy, s}, M, ExchangedKernels{w, s}, C, 0, KH * KW * OC), dx, M, C, 0, false);
}

// Each layer of the grid sums up `length` windows of its own into one part.
extern "C" __global__ void __launch_bounds__(THREADS) implicit_conv2d_dw(
        const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ parts,
        int N, int OC, int H, int W, int C, int OH, int OW, int KH, int KW,
        int SH, int SW, int top, int left, int DH, int DW, int length) {
    const Sizes s = {N, OC, H, W, C, OH, OW, KH, KW, SH, SW, top, left, DH, DW};
    const int M = KH * KW * C, first = blockIdx.z * length, last = first + min(length, N * OH * OW - first);
    const Sums sums = product(TransposedColumns{{x, s}}, M, Matrix{dy, OC}, OC, first, last);
    write(sums, parts + (long long)blockIdx.z * M * OC, M, OC, 0, false);
}
