// What differs between the devices that kernels are generated for: how loop IR becomes code, which calls of the
// device's library write into planned memory, and where memory comes from. Planning, fusion and execution are shared.
#ifndef FRAMEJIT_BACKENDS_NATIVE_TARGET_H_
#define FRAMEJIT_BACKENDS_NATIVE_TARGET_H_

#include <c10/core/Device.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backends/loop/loop_ir.h"
#include "backends/native/plan.h"

namespace framejit::native {

struct CodeOptions {
  bool keep_text = false;   // fill KernelCode::text
  bool open_sizes = false;  // the graph is one of many, for other sizes each: code that serves several is worth it
  bool autotune = false;    // measure what the cost model is not sure of
};

// Code that kernels of all graphs share: what was made so far, and what is held.
struct CodeCount {
  int64_t made = 0;
  int64_t held = 0;
  int64_t held_bytes = 0;
};

// Thread-safe and immutable; one for each device, which is never destroyed.
class Target {
 public:
  using CompiledCode = absl::StatusOr<std::shared_ptr<const KernelCode>>;

  virtual ~Target() = default;
  virtual c10::Device device() const = 0;

  // --- at compile time ---

  // Into how many pieces the rows of a canonical kernel are cut (loop/split.h); 0: it runs whole.
  virtual int64_t PiecesOf(const loop::Kernel& kernel) const = 0;
  // By kernel. An error leaves the kernel's operators to ATen.
  virtual std::vector<CompiledCode> Compile(absl::Span<const loop::Kernel> kernels,
                                            const CodeOptions& options) const = 0;
  virtual CodeCount code_count() const = 0;
  // An OutCall that applies to the node, or none.
  virtual OutCall FindOutCall(const Graph& graph, const Node& node) const = 0;
  // Code of the target's own for a node that is no part of a fused kernel, or none. Its operands and its one result
  // have a loop form, and the result is contiguous.
  virtual DirectCall FindDirectCall(const Graph& /*graph*/, const Node& /*node*/) const { return {}; }

  // --- at run time, on this device ---

  // A new tensor from torch's allocator.
  virtual at::Tensor Allocate(const TensorShape& shape, bool zeroed) const = 0;
  virtual c10::DataPtr AllocateArena(size_t bytes) const = 0;
  // Whether an arena may be used by later calls: its memory is free as soon as the call returns.
  virtual bool keeps_arenas() const = 0;
  // The order in which kernels of this thread run: torch's current stream; null where they run at once.
  virtual void* CurrentQueue() const = 0;
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_TARGET_H_
