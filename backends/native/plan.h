// What one call does, decided at compile time: steps with every address computed up to a base pointer, where each value
// lives, and the layout of the arena. Immutable once made; executor.h runs it.
#ifndef FRAMEJIT_BACKENDS_NATIVE_PLAN_H_
#define FRAMEJIT_BACKENDS_NATIVE_PLAN_H_

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "backends/loop/loop_ir.h"
#include "base/timing.h"
#include "graph/graph.h"

namespace framejit::native {

// Where a step finds a tensor.
struct TensorRef {
  enum class Kind : uint8_t {
    kNone,
    kInput,     // of the call
    kConstant,  // Plan::constants
    kFrame,     // Plan::frame_tensors: over the arena, made once per frame
    kLocal,     // made in this call
  };
  Kind kind = Kind::kNone;
  int32_t index = 0;
};

// bases[base] + offset. Base 0 is the arena.
struct PointerRef {
  int32_t base = 0;
  int64_t offset = 0;  // bytes
};

// A tensor made without the dispatcher.
struct TensorShape {
  at::ScalarType dtype = at::kFloat;
  c10::DimVector sizes;
  c10::DimVector strides;
  bool contiguous = true;  // the strides of a fresh tensor, along dimensions of one element too
};

// A compiled kernel. Immutable, safe to run from several threads at once.
class KernelCode {
 public:
  virtual ~KernelCode() = default;
  // buffers[i] belongs to loop::Kernel::buffers[i]. `queue`: Target::CurrentQueue. Raises c10::Error where the device
  // refuses it.
  virtual void Run(void* const* buffers, void* queue) const = 0;
  // A rough time that the calling thread spends in Run.
  virtual double nanoseconds() const = 0;
  // As profilers show it.
  virtual const std::string& name() const = 0;
  // What was generated, for readers; empty where nobody asked for it.
  virtual const std::string& text() const = 0;
};

// Code for one node: buffers[i] is where operands[i] lies; the last buffer takes the result.
struct DirectCall {
  std::shared_ptr<const KernelCode> code;
  absl::InlinedVector<ValueId, 3> operands;
};

struct KernelStep {
  std::shared_ptr<const KernelCode> kernel;
  absl::InlinedVector<PointerRef, 8> buffers;
};

// A new tensor from torch's allocator.
struct AllocateStep {
  TensorShape shape;
  int32_t local = 0;
  int32_t base = 0;
  bool zeroed = false;
};

// A tensor over the memory of another, from metadata.
struct AliasStep {
  TensorRef from;
  TensorShape shape;
  int64_t offset = 0;  // elements after `from`'s first
  int32_t local = 0;
};

// A copy of a constant that the caller will own.
struct CloneStep {
  int32_t constant = 0;
  int32_t local = 0;
  int32_t base = 0;
};

struct LibraryResult {
  int32_t local = -1;  // -1: nobody reads it
  int32_t base = -1;   // where kernels read it; -1: they do not
  const TensorMeta* meta = nullptr;
};

struct LibraryStep;
struct CallState;
using LibraryFunction = void (*)(const LibraryStep& step, CallState& call);

// The direct call of an operator that can write its one result into a given contiguous tensor.
struct OutCall {
  LibraryFunction function = nullptr;    // null: there is none
  LibraryFunction into_zeros = nullptr;  // the same where the tensor is known to hold zeros; null: no difference
  bool (*applies)(const Graph& graph, const Node& node) = nullptr;  // null: to every node of the operator
};

// One ATen call: by the dispatcher, or into a given tensor.
struct LibraryStep {
  const Node* node = nullptr;
  LibraryFunction function = nullptr;
  std::vector<absl::InlinedVector<TensorRef, 1>> operands;  // by schema position; empty for constants
  std::vector<LibraryResult> results;                       // where the call returns new tensors
  TensorRef out;                                            // where it writes into one
};

struct Step {
  std::variant<KernelStep, AllocateStep, AliasStep, CloneStep, LibraryStep> action;
  absl::InlinedVector<int32_t, 2> released;  // locals nobody reads after it
};

struct FrameTensor {
  TensorShape shape;
  int64_t offset = 0;  // bytes into the arena
};

struct PlannedMutation {
  TensorRef input;
  TensorRef value;  // the input itself where a kernel writes it
};

class Target;

struct Plan {
  const Target* target = nullptr;
  Graph graph;  // owns the nodes and metadata the steps point to
  std::vector<Step> steps;
  std::vector<at::Tensor> constants;
  std::vector<std::pair<int32_t, int32_t>> input_bases;     // (input, base)
  std::vector<int32_t> written_in_place;                    // inputs that kernels write; no step behind can fail
  std::vector<std::pair<int32_t, int32_t>> constant_bases;  // (constant, base)
  std::vector<FrameTensor> frame_tensors;
  int64_t arena_bytes = 0;
  int32_t local_count = 0;
  int32_t base_count = 1;
  std::vector<TensorRef> outputs;
  std::vector<PlannedMutation> mutations;
  bool calls_library = false;
  double nanoseconds = 0;  // a rough estimate, for deciding whether to release the GIL
  std::string description;
};

// For a target that outlives the plan. Unimplemented where the graph cannot be reordered (it mutates arguments).
// `timings`, where it is given, says how long making code of the kernels took.
absl::StatusOr<std::unique_ptr<const Plan>> MakePlan(const Graph& graph, const Target& target,
                                                     Timings* timings = nullptr);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_PLAN_H_
