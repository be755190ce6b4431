// How backends call recorded ATen operators: boxed, below the dispatch layers that were recorded away.
#ifndef FRAMEJIT_BACKENDS_DISPATCH_H_
#define FRAMEJIT_BACKENDS_DISPATCH_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <utility>
#include <vector>

#include "graph/graph.h"
#include "graph/recorded_level.h"

namespace framejit {

// What is recorded lies below autograd and autocast: neither may act a second time. ADInplaceOrView stays, so that
// views of inputs know their base and share its version counter, as they do in eager.
class RecordedLevelGuard {
 public:
  RecordedLevelGuard() : guard_(kAboveRecorded) {}

 private:
  c10::impl::ExcludeDispatchKeyGuard guard_;
};

// Pushes the node's operands in schema order; `tensors` is indexed by ValueId.
void PushOperands(const Node& node, const std::vector<at::Tensor>& tensors, torch::jit::Stack& stack);
// Moves the call's results from the stack to the node's output values. False where their number or kind differs from
// what was recorded.
bool TakeResults(const Node& node, torch::jit::Stack& stack, std::vector<at::Tensor>& tensors);
// Calls the operator under a RecordedLevelGuard as eager does: the views that it makes inside for its own use are not
// views of a base to the caller, unless it is itself a view or writes an argument.
void CallOperator(const c10::OperatorHandle& op, torch::jit::Stack& stack);
// PushOperands, CallOperator, TakeResults. Raises what the operator raises.
void CallNode(const Node& node, std::vector<at::Tensor>& tensors);

// For each node, the values that are read by no later node and are neither inputs, constants, outputs nor mutations'
// values.
std::vector<std::vector<ValueId>> LastUses(const Graph& graph);

// Writes the mutated inputs: (input, new value), in program order. A value that shares memory with an input written
// before it is copied first, so that every write sees the values from before the first one.
void ApplyWrites(std::vector<std::pair<at::Tensor, at::Tensor>> writes);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_DISPATCH_H_
