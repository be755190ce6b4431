// Runs a kernel compiled and interpreted on the same data, behind guard pages, and compares.
#ifndef FRAMEJIT_TESTS_CPP_KERNELS_KERNEL_HARNESS_H_
#define FRAMEJIT_TESTS_CPP_KERNELS_KERNEL_HARNESS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/codegen/kernel_compiler.h"
#include "backends/loop/builder.h"
#include "backends/loop/interpret.h"

namespace framejit::testing {

using cpu::CodegenOptions;
using cpu::KernelCompiler;
using loop::DType;
using loop::Kernel;
using loop::KernelBuilder;
using loop::Op;
using loop::ValueId;

// Elements that begin right behind an inaccessible page or end right before one.
class GuardedBuffer {
 public:
  enum class Flush : uint8_t { kAtEnd, kAtStart };
  GuardedBuffer(int64_t bytes, Flush flush);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* map_ = nullptr;
  int64_t map_bytes_ = 0;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Deterministic values: small and large magnitudes; with `specials`, NaN, infinities, zeros of both signs and
// denormals.
void FillRandom(DType dtype, void* data, int64_t count, uint64_t seed, bool specials, double scale = 1);

// The instruction sets to test: AVX2 and, where the CPU has it, AVX-512.
std::vector<CodegenOptions::IsaChoice> RunnableIsas();
const char* NameOf(CodegenOptions::IsaChoice isa);

struct CheckOptions {
  double ulps = 0;      // of the result type, against the exact interpreter; 0: bit-exact with the typed interpreter
  double absolute = 0;  // accepted besides
  bool specials = true;
  double scale = 1;  // of floating inputs
  uint64_t seed = 1;
};

// EXPECTs that compiled and interpreted agree on random inputs, for each instruction set and both guard positions, with
// code for the kernel's sizes alone and for any, run in one piece and in several. Buffer sizes follow from the kernel's
// accesses.
void CheckKernel(const Kernel& kernel, const CheckOptions& options = {});
// The same with code that the compiler shares among kernels, for its instruction set.
void CheckOpenKernel(KernelCompiler& compiler, const Kernel& kernel, const CheckOptions& options = {});

Kernel MustFinish(KernelBuilder builder);
// Row-major strides.
std::vector<int64_t> Contiguous(const std::vector<int64_t>& sizes);

// Distance in units of the last place of `exact` rounded to f32 (or f64).
double UlpError(DType dtype, double got, long double exact);

}  // namespace framejit::testing

#endif  // FRAMEJIT_TESTS_CPP_KERNELS_KERNEL_HARNESS_H_
