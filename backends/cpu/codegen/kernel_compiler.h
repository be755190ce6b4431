// Compiles loop IR kernels to x86-64 machine code and keeps the code. Scheduling over threads is the caller's.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_COMPILER_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_COMPILER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/loop/loop_ir.h"

namespace framejit::cpu {

enum class Isa : uint8_t {
  kAvx2,
  kAvx512,      // F, DQ, BW, VL
  kAvx512Vnni,  // and VNNI
};

// The best instruction set that this CPU and operating system run; Unimplemented without AVX2 and FMA.
absl::StatusOr<Isa> DetectIsa();
bool IsIntelCpu();

struct CodegenOptions {
  enum class IsaChoice : uint8_t { kDetect, kAvx2, kAvx512, kAvx512Vnni };
  IsaChoice isa = IsaChoice::kDetect;  // a forced choice the CPU lacks compiles, but must not be run
  bool keep_text = false;              // fill CompiledKernel::assembly
};

// What vectors of a kernel run along, which is what its work is divided by (see CompiledKernel::units).
enum class Walk : uint8_t {
  kElements,  // the only dimension of a kernel without reductions; a unit is an element
  kRows,      // the inner dimension; a unit is a row
  kColumns,   // the last row dimension, where that one is contiguous and the inner one is not; a unit is a vector of
              // rows
  kTiles,     // as kRows, where transposed data is read in tiles and AVX-512 is there; a unit is the rows of a tile
};
Walk WalkOf(const loop::Kernel& kernel, Isa isa);  // of a canonical kernel
bool WalksColumns(const loop::Kernel& kernel);     // kColumns, on every instruction set

// Machine code of the kernels of one text. Immutable.
class MachineCode {
 public:
  // `arguments`: the open numbers, as ArgumentsOf() puts them; not read by the code of closed kernels.
  using Function = void (*)(void* const*, int64_t, int64_t, const int64_t* arguments);

  virtual ~MachineCode() = default;
  Function function() const { return function_; }
  // The canonical kernel, and its instructions with the nodes they come from; empty unless CodegenOptions::keep_text.
  const std::string& assembly() const { return assembly_; }
  // As profilers show it (perf_map.h).
  const std::string& name() const { return name_; }
  size_t bytes() const { return bytes_; }

 protected:
  Function function_ = nullptr;
  size_t bytes_ = 0;
  std::string assembly_;
  std::string name_;
};

// A kernel and its code, which others may share. Immutable, safe to run from several threads at once; lives as long as
// someone holds it.
class CompiledKernel {
 public:
  CompiledKernel(const loop::Kernel& kernel, Isa isa, int cost_per_element, std::shared_ptr<const MachineCode> code,
                 std::vector<int64_t> arguments);
  // Work is divided in units: elements of a one-dimensional kernel without reductions, vectors of neighbouring rows
  // where reductions run along a strided dimension, tiles, otherwise rows. Run computes units [begin, end); any
  // partition of [0, units()) gives the same result.
  int64_t units() const { return units_; }
  // Elements computed by one unit, and a rough cost per element in instructions per vector, for choosing a grain.
  int64_t elements_per_unit() const { return elements_per_unit_; }
  int cost_per_element() const { return cost_per_element_; }
  // buffers[i] belongs to Kernel::buffers[i]. Overlap: see loop_ir.h.
  void Run(void* const* buffers, int64_t begin, int64_t end) const {
    code_->function()(buffers, begin, end, arguments_.data());
  }
  const MachineCode& code() const { return *code_; }

 private:
  int64_t units_ = 0;
  int64_t elements_per_unit_ = 1;
  int cost_per_element_ = 1;
  std::shared_ptr<const MachineCode> code_;
  std::vector<int64_t> arguments_;
};

// Code that was emitted so far, and what of it is held.
struct EmittedCode {
  int64_t emitted = 0;
  int64_t held = 0;
  int64_t held_bytes = 0;
};

// Which numbers of a kernel its code leaves open.
enum class Sizes : uint8_t {
  kClosed,  // none that would make another code
  // Rows, where they lie, and the length of what has no vectors: code is shared by kernels that differ in these. So is
  // it by kernels whose vectors run along dimensions of different sizes, once there are a few of them: until then, code
  // for one size is faster.
  kOpen,
};

// Thread-safe. Canonicalizes, compiles, and returns the same code for kernels with the same text.
class KernelCompiler {
 public:
  explicit KernelCompiler(CodegenOptions options = {});
  ~KernelCompiler();
  KernelCompiler(const KernelCompiler&) = delete;
  KernelCompiler& operator=(const KernelCompiler&) = delete;

  // InvalidArgument: the kernel does not verify. Unimplemented: this CPU lacks AVX2.
  absl::StatusOr<std::shared_ptr<const CompiledKernel>> Compile(const loop::Kernel& kernel,
                                                                Sizes sizes = Sizes::kClosed);
  EmittedCode emitted() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_COMPILER_H_
