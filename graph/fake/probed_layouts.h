// The layout of results whose metadata are wrong about it, found by running the operator.
#ifndef FRAMEJIT_GRAPH_FAKE_PROBED_LAYOUTS_H_
#define FRAMEJIT_GRAPH_FAKE_PROBED_LAYOUTS_H_

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace framejit {

// Torch's Python metadata are written for contiguous operands: those of many operators give contiguous results where
// kernels of the CPU follow the operands' memory format, or strides of their own. `arguments`, with shadows for
// tensors: runs the kernel on zeros that are laid out as these, and gives the tensors of `results`, also shadows, the
// strides that come of it. Leaves them as they are where the kernel raises on zeros.
void ProbeLayouts(const c10::OperatorHandle& op, torch::jit::Stack arguments, c10::ArrayRef<c10::IValue*> results);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_PROBED_LAYOUTS_H_
