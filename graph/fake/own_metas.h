// Metadata kernels of our own, for operators whose only other one is Python (or is wrong about what the CPU does). Each
// computes the sizes, dtypes and strides that eager's result has, on the CPU but where MetaCall::on_gpu is asked;
// tests/python/fake compares every one with the operator itself. They run on bare meta tensors below every other
// dispatch key, and only compute metadata: checks that cannot influence it are left to the operator, but for those of
// the memory that is written, which tell where a program ends.
#ifndef FRAMEJIT_GRAPH_FAKE_OWN_METAS_H_
#define FRAMEJIT_GRAPH_FAKE_OWN_METAS_H_

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/operator_name.h>
#include <ATen/core/stack.h>

#include <optional>
#include <utility>
#include <vector>

namespace framejit {

// The boxed arguments of one call; Return replaces them by the results.
class MetaCall {
 public:
  MetaCall(torch::jit::Stack& stack, size_t arguments, c10::DeviceType device)
      : stack_(stack), base_(stack.size() - arguments), device_(device) {}

  const c10::IValue& operator[](size_t i) const { return stack_[base_ + i]; }
  const at::Tensor& tensor(size_t i) const { return (*this)[i].toTensor(); }
  // Whether the operator runs on a GPU, whose kernels make some results otherwise than the CPU's.
  bool on_gpu() const { return device_ == c10::kCUDA; }
  // False for None and for an undefined tensor.
  bool has(size_t i) const { return !(*this)[i].isNone() && !((*this)[i].isTensor() && !tensor(i).defined()); }
  int64_t integer(size_t i) const { return (*this)[i].toInt(); }
  c10::DimVector integers(size_t i) const;
  // The dtype in an optional argument, or `otherwise`.
  at::ScalarType dtype(size_t i, at::ScalarType otherwise) const;

  template <typename... Results>
  void Return(Results... results) {
    stack_.resize(base_);
    (stack_.emplace_back(std::move(results)), ...);
  }

 private:
  torch::jit::Stack& stack_;
  size_t base_;
  c10::DeviceType device_;
};

using OwnMeta = void (*)(MetaCall&);

struct OwnMetaRow {
  const char* op;  // "aten::add.Tensor"
  OwnMeta meta;
};

// The families; each file holds one table.
const std::vector<OwnMetaRow>& FactoryMetas();
const std::vector<OwnMetaRow>& PointwiseMetas();
const std::vector<OwnMetaRow>& ReductionMetas();
const std::vector<OwnMetaRow>& ShapeMetas();
const std::vector<OwnMetaRow>& NeuralMetas();
const std::vector<OwnMetaRow>& StatisticsMetas();

OwnMeta FindOwnMeta(const c10::OperatorName& name);

// Pointwise operators with one result, which has the sizes and dtype of floating operands that are all contiguous and
// of one kind, and is contiguous as well: what they compute and with which numbers says nothing about metadata then.
bool KeepsPlainLayout(const c10::OperatorName& name);

// New meta tensors.
at::Tensor NewStrided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype);
at::Tensor NewContiguous(at::IntArrayRef sizes, at::ScalarType dtype);
at::Tensor NewIn(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format);
// As empty_like does: the strides of a dense tensor, their order otherwise.
at::Tensor NewLike(const at::Tensor& tensor, at::ScalarType dtype);
at::Tensor NewLike(const at::Tensor& tensor);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_OWN_METAS_H_
