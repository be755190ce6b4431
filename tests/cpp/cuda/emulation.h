// What generated kernels need of CUDA, for a C++ compiler: the threads of a block are coroutines that run in turn from
// one barrier to the next. Included in front of generated text by emulate_test.cc; checks what a GPU does not: that all
// threads meet at the same kind of barrier, and that lanes that exchange values take part.
#ifndef FRAMEJIT_TESTS_CPP_CUDA_EMULATION_H_
#define FRAMEJIT_TESTS_CPP_CUDA_EMULATION_H_

#include <ucontext.h>

#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static  // blocks run one after the other

struct uint2 {
  alignas(8) unsigned x;
  unsigned y;
};
struct uint4 {
  alignas(16) unsigned x;
  unsigned y, z, w;
};
struct Index {
  unsigned x = 0, y = 0;
};

namespace emulation {

enum class Wait { kNone, kBlock, kWarp, kDone };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index index;
  Wait wait = Wait::kNone;
  unsigned exchanges = 0;  // so far; values lie in turn in one of two places
  alignas(16) char value[2][16];
};

inline std::vector<Thread> threads;
inline size_t current = 0;
inline Index block;
inline ucontext_t scheduler;
// Pointers to buffers, and open numbers behind them: each takes a register or 8 bytes of the stack, as int or pointer.
template <size_t... kIndex>
void Call(void* kernel, void** arguments, std::index_sequence<kIndex...>) {
  reinterpret_cast<void (*)(decltype(static_cast<void*>(arguments[kIndex]))...)>(kernel)(arguments[kIndex]...);
}
constexpr size_t kMostArguments = 40;
inline void* kernel;
inline void** buffers;

inline void Fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::abort();
}

inline void Yield(Wait wait) {
  Thread& thread = threads[current];
  thread.wait = wait;
  swapcontext(&thread.context, &scheduler);
}

inline void Body() {
  Call(kernel, buffers, std::make_index_sequence<kMostArguments>());
  threads[current].wait = Wait::kDone;
  swapcontext(&threads[current].context, &scheduler);
}

inline void RunBlock(unsigned width, unsigned height) {
  constexpr size_t kStack = 64 << 10;
  if (threads.size() != size_t{width} * height) threads = std::vector<Thread>(size_t{width} * height);
  for (size_t t = 0; t < threads.size(); ++t) {
    Thread& thread = threads[t];
    if (thread.stack == nullptr) thread.stack.reset(new char[kStack]);
    thread.index = {static_cast<unsigned>(t % width), static_cast<unsigned>(t / width)};
    thread.wait = Wait::kNone;
    thread.exchanges = 0;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack;
    makecontext(&thread.context, Body, 0);
  }
  for (bool running = true; running;) {
    running = false;
    Wait round = Wait::kNone;
    for (current = 0; current < threads.size(); ++current) {
      if (threads[current].wait == Wait::kDone) continue;
      swapcontext(&scheduler, &threads[current].context);
      const Wait wait = threads[current].wait;
      if (wait == Wait::kDone) continue;
      if (round != Wait::kNone && round != wait) Fail("threads wait at barriers of two kinds");
      round = wait;
      running = true;
    }
    for (const Thread& thread : threads) {
      if (round == Wait::kBlock && thread.wait == Wait::kDone) Fail("a thread has left before a barrier of its block");
    }
  }
}

}  // namespace emulation

#define threadIdx (emulation::threads[emulation::current].index)
#define blockIdx (emulation::block)

inline void __syncthreads() { emulation::Yield(emulation::Wait::kBlock); }

template <class T>
T __shfl_xor_sync(unsigned mask, T x, int step) {
  emulation::Thread& own = emulation::threads[emulation::current];
  const unsigned lane = emulation::current % 32;
  const size_t other = emulation::current - lane + (lane ^ static_cast<unsigned>(step));
  if ((mask >> lane & 1) == 0 || (mask >> (lane ^ static_cast<unsigned>(step)) & 1) == 0) {
    emulation::Fail("a lane outside the mask");
  }
  const unsigned place = own.exchanges++ % 2;
  std::memcpy(own.value[place], &x, sizeof x);
  emulation::Yield(emulation::Wait::kWarp);
  if (other >= emulation::threads.size() || emulation::threads[other].exchanges < own.exchanges) {
    emulation::Fail("a lane that takes no part");
  }
  std::memcpy(&x, emulation::threads[other].value[place], sizeof x);
  return x;
}

inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

#define FJ inline
typedef unsigned char u8;
typedef signed char i8;
typedef short i16;
typedef long long i64;
typedef unsigned long long u64;
struct f16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};
inline float Float(f16 x) {
  _Float16 half;
  std::memcpy(&half, &x, sizeof half);
  return static_cast<float>(half);
}
inline float Float(bf16 x) { return __int_as_float(static_cast<int>(static_cast<unsigned>(x.bits) << 16)); }
inline f16 Half(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  f16 bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
inline bf16 BFloat(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {0x7fc0};
  return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float ApproximateExp2(float x) { return std::exp2(x); }
inline float ApproximateReciprocal(float x) { return 1 / x; }
inline float ApproximateDiv(float x, float y) { return x / y; }

extern "C" void Emulate(void* kernel, void** buffers, long long blocks, unsigned width, unsigned height) {
  emulation::kernel = kernel;
  emulation::buffers = buffers;
  for (long long b = 0; b < blocks; ++b) {
    emulation::block.x = static_cast<unsigned>(b);
    emulation::RunBlock(width, height);
  }
}

#endif  // FRAMEJIT_TESTS_CPP_CUDA_EMULATION_H_
