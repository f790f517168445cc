// Host emulation of CUDA C++, enough to run this library's kernels on the CPU.
//
// A grid runs block by block; each thread of a block is a fiber (ucontext) which runs until it meets a
// barrier or ends. A "phase" is the run of all threads up to their next barrier. The order of the threads
// within a phase, and of the blocks within the grid, is forward, reverse or seeded random: a kernel that
// lacks a barrier gives a different result in some order. Differences from a GPU: atomics are sequential,
// a warp does not run in lockstep, __shared__ means `static` (no dynamic shared memory, and the values of
// the previous block remain), and tensor cores add one product after another. With EMULATION_GPU_ARITHMETIC a launch
// takes and makes no denormal numbers, in double neither, and the compiler contracts products and sums to fused
// multiply-adds; without it there is nothing of the kind.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef EMULATION_GPU_ARITHMETIC
#include <xmmintrin.h>
#endif

#define CUDA_EMULATION  // kernels leave out what is written in PTX, and take it from here

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __shared__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

#undef INFINITY  // NVRTC has neither: write -__int_as_float(0x7f800000), or define them in the preamble
#undef NAN

struct dim3 { unsigned x = 1, y = 1, z = 1; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---------------------------------------------------------------------------------------------------------
// Functions that every CUDA kernel may call. min and max of floats ignore a NaN, as on the GPU.
using std::isfinite;
using std::isinf;
using std::isnan;
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a < b ? b : a; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
static inline long min(long a, long b) { return a < b ? a : b; }
static inline long max(long a, long b) { return a < b ? b : a; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a < b ? b : a; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }
#define __expf(x) expf(x)  // macros, because the C library has private functions of these names
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __fdividef(x, y) ((x) / (y))
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static inline float normcdf(float x) { return (float)normcdf((double)x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
template <class To, class From> static inline To emulation_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __int_as_float(int x) { return emulation_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return emulation_bits<float>(x); }
static inline int __float_as_int(float x) { return emulation_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return emulation_bits<unsigned>(x); }
static inline double __longlong_as_double(long long x) { return emulation_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return emulation_bits<long long>(x); }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T atomicAdd(T *p, T v) { T old = *p; *p = old + v; return old; }
template <class T> static inline T atomicMax(T *p, T v) { T old = *p; if (v > old) *p = v; return old; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// ---------------------------------------------------------------------------------------------------------
namespace emulation {

enum Order : unsigned { forward = 0, reverse = 1 };  // 2 and above: random, the number being the seed

// A permutation of 0 .. n-1 in the chosen order.
class Shuffler {
  uint64_t state_;
  unsigned order_;
  uint64_t next() {  // xorshift64*
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return (state_ * 2685821657736338717ull) >> 33;
  }

 public:
  explicit Shuffler(unsigned order) : state_(0x9E3779B97F4A7C15ull * (order + 1)), order_(order) {}
  void fill(std::vector<long long> &items, long long n) {
    items.resize(n);
    for (long long k = 0; k < n; ++k) items[k] = order_ == reverse ? n - 1 - k : k;
    if (order_ > reverse)
      for (long long k = n - 1; k > 0; --k) std::swap(items[k], items[next() % (k + 1)]);
  }
};

// --- elementwise kernels: no threads, only the checked accessors ------------------------------------------

struct OutOfBounds { int parameter = -1; long long index = 0; };
static OutOfBounds out_of_bounds;  // the first bad access of the current launch

// What CuPy calls a raw array: a flat, C-ordered sequence.
template <class T> class RawArray {
  T *data_;
  long long size_;
  int parameter_;

 public:
  RawArray(void *data, long long size, int parameter)
      : data_(static_cast<T *>(data)), size_(size), parameter_(parameter) {}
  ptrdiff_t size() const { return size_; }
  T &operator[](ptrdiff_t k) const {
#ifndef EMULATION_UNCHECKED
    if (k < 0 || k >= size_) {
      static std::remove_const_t<T> nowhere;
      nowhere = {};
      if (out_of_bounds.parameter < 0) out_of_bounds = {parameter_, (long long)k};
      return nowhere;
    }
#endif
    return data_[k];
  }
};

// While it lives, tiny numbers are zero, as in kernels that CuPy compiles, always with -ftz=true.
struct Arithmetic {
#ifdef EMULATION_GPU_ARITHMETIC
  const unsigned before = _mm_getcsr();
  Arithmetic() { _mm_setcsr(before | 0x8040); }  // results: flush to zero; operands: denormals are zero
  ~Arithmetic() { _mm_setcsr(before); }
#endif
};

struct Indexer {
  ptrdiff_t n;
  ptrdiff_t size() const { return n; }
};

// Byte offset of flat C-order element i in an array of the given shape and strides.
static inline long long offset(long long i, int ndim, const long long *shape, const long long *strides) {
  if (ndim == 1) return i * strides[0];
  long long bytes = 0;
  for (int d = ndim - 1; d >= 0; --d) bytes += (i % shape[d]) * strides[d], i /= shape[d];
  return bytes;
}

// --- block kernels: fibers and barriers -------------------------------------------------------------------

enum Status { ok = 0, deadlock = 1, divergent_barrier = 2 };
enum State { runnable, at_block_barrier, at_warp_barrier, finished };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  State state;
  int line;           // source line of the block barrier it waits at
  unsigned mask;      // lanes that must meet at the warp barrier it waits at
  uint64_t offered;   // value given to a shuffle
  bool offering;
};

static const size_t stack_bytes = 64 * 1024;
static const int max_threads = 1024;
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static int current, thread_count, failing_line;
static void (*thread_body)(void *);
static void *thread_argument;

static void place(int thread) {
  current = thread;
  threadIdx.x = thread % blockDim.x;
  threadIdx.y = thread / blockDim.x % blockDim.y;
  threadIdx.z = thread / blockDim.x / blockDim.y;
}

static void wait(State state) {
  Fiber &self = fibers[current];
  self.state = state;
  swapcontext(&self.context, &scheduler);  // the scheduler sets threadIdx again before it resumes
}

static void block_barrier(int line) { fibers[current].line = line, wait(at_block_barrier); }
static void warp_barrier(unsigned mask) { fibers[current].mask = mask, wait(at_warp_barrier); }

static void fiber_main() {
  thread_body(thread_argument);
  wait(finished);
}

static void start(int thread) {
  Fiber &fiber = fibers[thread];
  if (fiber.stack.empty()) fiber.stack.resize(stack_bytes);
  fiber.state = runnable, fiber.offering = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  fiber.context.uc_link = &scheduler;
  makecontext(&fiber.context, fiber_main, 0);
}

// Let go the lanes that wait at a warp barrier for this thread, if all have arrived; lanes that have ended do not count.
static bool release_warp(int thread) {
  const int first = thread & ~31, end = min(first + 32, thread_count);
  for (int waiting = first; waiting < end; ++waiting) {
    if (fibers[waiting].state != at_warp_barrier) continue;
    const unsigned mask = fibers[waiting].mask;
    const auto counts = [=](int other) { return (mask >> (other - first) & 1) && fibers[other].state != finished; };
    bool complete = true;
    for (int other = first; complete && other < end; ++other)
      complete = !counts(other) || (fibers[other].state == at_warp_barrier && fibers[other].mask == mask);
    for (int other = first; complete && other < end; ++other)
      if (counts(other)) fibers[other].state = runnable;
    if (complete) return true;
  }
  return false;
}

// Let the block go on if all its threads wait at the same __syncthreads.
static Status release_block() {
  int waiting = 0, line = 0;
  for (int thread = 0; thread < thread_count; ++thread)
    if (fibers[thread].state == at_block_barrier) ++waiting, line = failing_line = fibers[thread].line;
  if (waiting == 0) return deadlock;
  for (int thread = 0; thread < thread_count; ++thread) {
    const Fiber &fiber = fibers[thread];
    if (fiber.state == at_warp_barrier) return deadlock;
    if (fiber.state == finished || fiber.line != line) return divergent_barrier;
  }
  for (int thread = 0; thread < thread_count; ++thread) fibers[thread].state = runnable;
  return ok;
}

static Status run_block(Shuffler &shuffler) {
  std::vector<long long> threads;
  for (int thread = 0; thread < thread_count; ++thread) start(thread);
  for (;;) {
    shuffler.fill(threads, thread_count);
    for (int k = 0; k < thread_count; ++k) {
      const int thread = threads[k];
      if (fibers[thread].state != runnable) continue;
      place(thread), swapcontext(&scheduler, &fibers[thread].context);
      if (release_warp(thread)) k = -1;  // which runs on, ahead of the others, as soon as it can
    }
    bool all_finished = true;
    for (int thread = 0; thread < thread_count; ++thread) all_finished &= fibers[thread].state == finished;
    if (all_finished) return ok;
    if (Status status = release_block()) return status;
  }
}

template <class Body> static Status launch(dim3 grid, dim3 block, unsigned order, Body body) {
  const Arithmetic arithmetic;
  gridDim = grid, blockDim = block;
  thread_count = block.x * block.y * block.z;
  fibers.resize(max_threads);
  for (Fiber &fiber : fibers) fiber.offering = false;
  thread_body = [](void *argument) { (*static_cast<Body *>(argument))(); };
  thread_argument = &body;
  Shuffler shuffler(order);
  std::vector<long long> blocks;
  shuffler.fill(blocks, (long long)grid.x * grid.y * grid.z);
  for (long long index : blocks) {
    blockIdx.x = index % grid.x;
    blockIdx.y = index / grid.x % grid.y;
    blockIdx.z = index / grid.x / grid.y;
    if (Status status = run_block(shuffler)) return status;
  }
  return ok;
}

// Call a kernel with its arguments given as the launch API of CUDA gives them: pointers to the values.
template <class... P, size_t... K>
static void call(void (*kernel)(P...), void **arguments, std::index_sequence<K...>) {
  kernel(*static_cast<std::decay_t<P> *>(arguments[K])...);
}
template <class... P> static Status launch_kernel(void (*kernel)(P...), const unsigned *grid,
                                                  const unsigned *block, unsigned order, void **arguments) {
  return launch({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, order,
                [=] { call(kernel, arguments, std::index_sequence_for<P...>()); });
}

// The value another lane offers; a lane that takes no part gives all bits set (a NaN), as it is undefined.
template <class T> static T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  const int self = current;
  fibers[self].offered = 0, memcpy(&fibers[self].offered, &value, sizeof value), fibers[self].offering = true;
  warp_barrier(mask);
  const Fiber &other = fibers[(self & ~31) + source];
  const uint64_t bits = other.offering && (mask >> source & 1) ? other.offered : ~uint64_t(0);
  warp_barrier(mask);  // nobody may offer again before all have read
  fibers[self].offering = false;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline int lane() { return current & 31; }

// Tensor cores: c (16, 8) += a (16, k) b (k, 8) for one warp, where k is 8 words of 4 bytes: 8 values of tf32 or 16 of
// bf16. Of each matrix a lane holds the pieces that the PTX manual gives it ("Matrix Fragments for mma.m16n8k8" and
// "mma.m16n8k16"), with group = lane / 4 and member = lane % 4:
//   a[0..3]: rows group, group + 8, group, group + 8; words member, member, member + 4, member + 4
//   b[0..1]: words member, member + 4; column group
//   c[0..3]: rows group, group, group + 8, group + 8; columns 2 member, 2 member + 1, 2 member, 2 member + 1
struct Fragments { unsigned a[4], b[2]; };
static Fragments fragments[max_threads];

template <class Product> static void mma(float *c, const unsigned *a, const unsigned *b, Product product) {
  memcpy(fragments[current].a, a, sizeof(Fragments::a)), memcpy(fragments[current].b, b, sizeof(Fragments::b));
  warp_barrier(0xffffffffu);
  const Fragments *warp = fragments + (current & ~31);
  const int group = lane() / 4, member = lane() % 4;
  for (int n = 0; n < 4; ++n)
    for (int k = 0; k < 8; ++k) {
      const Fragments &left = warp[group * 4 + k % 4], &right = warp[(2 * member + n % 2) * 4 + k % 4];
      c[n] = product(left.a[n / 2 + k / 4 * 2], right.b[k / 4], c[n]);
    }
  warp_barrier(0xffffffffu);  // nobody may bring new fragments before all have read
}

static inline int segment(int width) { return lane() & ~(width - 1); }  // first lane of the own segment
static inline int within(int width, int source) {  // a source outside the own segment reads the own value
  return source >= segment(width) && source < segment(width) + width ? source : lane();
}

}  // namespace emulation

#define __syncthreads() emulation::block_barrier(__LINE__)
static inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::warp_barrier(mask); }
template <class T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emulation::shuffle(mask, value, emulation::segment(width) + (source & (width - 1)));
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulation::shuffle(mask, value, emulation::within(width, emulation::lane() + (int)delta));
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emulation::shuffle(mask, value, emulation::within(width, emulation::lane() - (int)delta));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return emulation::shuffle(mask, value, emulation::within(width, emulation::lane() ^ lanes));
}

// What a tensor core multiplies. It reads no more bits than its formats have: who forgets to round truncates.
static inline unsigned to_tf32(float x) {  // 10 bits of the mantissa; to the nearest, ties away from zero
  return isnan(x) ? 0x7fffffffu : (__float_as_uint(x) + 0x1000u) & ~0x1fffu;
}
static inline unsigned short to_bf16(float x) {  // 7 bits of the mantissa; to the nearest, ties to even
  const unsigned bits = __float_as_uint(x);
  return isnan(x) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
static inline void mma_tf32(float *c, const unsigned *a, const unsigned *b) {
  emulation::mma(c, a, b, [](unsigned left, unsigned right, float sum) {
    return sum + __uint_as_float(left & ~0x1fffu) * __uint_as_float(right & ~0x1fffu);
  });
}
static inline void mma_bf16(float *c, const unsigned *a, const unsigned *b) {
  emulation::mma(c, a, b, [](unsigned left, unsigned right, float sum) {
    sum += __uint_as_float(left << 16) * __uint_as_float(right << 16);  // the even step is the lower half
    return sum + __uint_as_float(left & ~0xffffu) * __uint_as_float(right & ~0xffffu);
  });
}
