// ATen calls of a plan: the boxed call of any operator, and direct calls that write into planned memory.
#ifndef FRAMEJIT_BACKENDS_CPU_LIBRARY_CALLS_H_
#define FRAMEJIT_BACKENDS_CPU_LIBRARY_CALLS_H_

#include "backends/cpu/plan.h"

namespace framejit::cpu {

// The memory of one call in flight: the arena and the tensors over it. Reused between calls, used by one at a time.
struct Frame {
  explicit Frame(const Plan& plan);
  void* arena = nullptr;
  std::vector<at::Tensor> tensors;

 private:
  c10::Storage storage_;
};

struct CallState {
  const Plan& plan;
  c10::ArrayRef<at::Tensor> inputs;
  at::Tensor* locals;
  void** bases;
  Frame* frame;

  const at::Tensor& At(TensorRef ref) const {
    static const at::Tensor undefined;
    switch (ref.kind) {
      case TensorRef::Kind::kNone:
        return undefined;
      case TensorRef::Kind::kInput:
        return inputs[static_cast<size_t>(ref.index)];
      case TensorRef::Kind::kConstant:
        return plan.constants[static_cast<size_t>(ref.index)];
      case TensorRef::Kind::kFrame:
        return frame->tensors[static_cast<size_t>(ref.index)];
      case TensorRef::Kind::kLocal:
        return locals[ref.index];
    }
    return undefined;
  }
};

// A tensor over `storage`, made without the dispatcher.
at::Tensor TensorOver(c10::Storage storage, const TensorShape& shape, int64_t storage_offset);

// Calls the recorded operator and files its results.
void CallBoxed(const LibraryStep& step, CallState& call);
// The direct call of an operator that can write its one result into a given contiguous tensor.
struct OutCall {
  LibraryFunction function = nullptr;    // null: there is none
  LibraryFunction into_zeros = nullptr;  // the same where the tensor is known to hold zeros; null: no difference
  bool (*applies)(const Graph& graph, const Node& node) = nullptr;  // null: to every node of the operator
};
OutCall FindOutCall(const Graph& graph, const Node& node);
// A rough number of nanoseconds.
double EstimateLibraryCall(const Graph& graph, const Node& node);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_LIBRARY_CALLS_H_
