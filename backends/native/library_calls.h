// ATen calls of a plan: the boxed call of any operator, and direct calls that write into planned memory.
#ifndef FRAMEJIT_BACKENDS_NATIVE_LIBRARY_CALLS_H_
#define FRAMEJIT_BACKENDS_NATIVE_LIBRARY_CALLS_H_

#include "backends/native/plan.h"

namespace framejit::native {

// The memory of one call in flight: the arena and the tensors over it. Used by one call at a time.
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
  void* queue;  // of the target

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

// For OutCalls: an operand, and the planned memory that takes the result (ATen's signatures want a mutable reference).
const at::Tensor& TensorOperand(const LibraryStep& step, const CallState& call, size_t i);
c10::Scalar ScalarOperand(const LibraryStep& step, size_t i);
at::Tensor& Out(const LibraryStep& step, const CallState& call);

// A rough number of nanoseconds.
double EstimateLibraryCall(const Graph& graph, const Node& node);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_LIBRARY_CALLS_H_
