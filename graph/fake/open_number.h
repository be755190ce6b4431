// Numbers whose values a graph leaves open: ints and floats of Python that a call of the graph is given as inputs of no
// dimensions, which type promotion takes for the numbers that they are. While operators are recorded, torch's symbolic
// numbers stand for them, so that whatever asks what one is worth is seen (OpenNumber::looked): then the recording
// holds for that number alone.
#ifndef FRAMEJIT_GRAPH_FAKE_OPEN_NUMBER_H_
#define FRAMEJIT_GRAPH_FAKE_OPEN_NUMBER_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <Python.h>
#include <c10/core/SymNodeImpl.h>

#include <limits>
#include <memory>
#include <optional>

#include "graph/graph.h"

namespace framejit {

struct OpenNumber {
  at::Scalar hint;  // what it is in this recording: an int or a float
  ValueId value = kNoValue;
  uint64_t recording_serial = 0;
  bool looked = false;
  // Operators raise where it is finite and beyond that.
  double largest = std::numeric_limits<double>::infinity();
};

// The Python object that stands for it: a torch.SymFloat or torch.SymInt (new reference). Null with a Python exception.
PyObject* ObjectOfNumber(std::shared_ptr<OpenNumber> number);
// Null where the node is none of ours.
std::shared_ptr<OpenNumber> NumberOfNode(const c10::SymNode& node);
// That of the tensor that torch's parser made of a symbolic number; null where it made it of any other.
std::shared_ptr<OpenNumber> NumberOfWrapped(const at::Tensor& tensor);
// A tensor as torch makes them of Python numbers.
at::Tensor WrapNumber(const at::Scalar& number);

// The operator that takes tensors where `op` takes numbers, and computes the same: its operands are those of `op` with
// numbers as tensors of no dimensions.
std::optional<c10::OperatorHandle> TensorOverload(const c10::OperatorHandle& op);
// Puts numbers in place of the symbolic ones among a call's arguments. Where `op` has a form that takes tensors and an
// open number is among them, `op` becomes that. Open ones stay where a recorded operator takes them (number_answers.h).
void TakeNumbers(std::optional<c10::OperatorHandle>& op, torch::jit::Stack& stack, size_t base);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_OPEN_NUMBER_H_
