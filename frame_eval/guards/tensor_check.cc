#include "frame_eval/guards/tensor_check.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace framejit {
namespace {

bool EqualSizes(c10::IntArrayRef a, const c10::DimVector& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < b.size(); ++i) {
    if (a[i] != b[i]) return false;
  }
  return true;
}

bool IsStrided(const c10::TensorImpl* impl) { return impl->layout() == c10::kStrided; }

std::string ListText(c10::IntArrayRef values) { return absl::StrCat("[", absl::StrJoin(values, ", "), "]"); }

}  // namespace

const at::Tensor* TensorOrNull(PyObject* object) {
  if (!THPVariable_CheckExact(object) &&
      !PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(THPVariableClass))) {
    return nullptr;
  }
  return &THPVariable_Unpack(object);
}

bool IsPlainLeaf(const at::Tensor& tensor, bool accumulates) {
  const torch::autograd::AutogradMeta* meta = torch::autograd::impl::get_autograd_meta(tensor);
  if (meta == nullptr) return true;
  if (meta->grad_fn_ != nullptr || !meta->hooks_.empty() || meta->cpp_hooks_list_ != nullptr) return false;
  if (!accumulates) return true;
  if (meta->post_acc_grad_hooks_ != nullptr) return false;
  const auto accumulator = torch::autograd::impl::try_get_grad_accumulator(tensor);
  return accumulator == nullptr || (accumulator->pre_hooks().empty() && accumulator->post_hooks().empty() &&
                                    accumulator->tensor_post_acc_grad_hooks() == nullptr);
}

TensorCheck::TensorCheck(const at::Tensor& expected)
    : keys_(expected.key_set()),
      dtype_(expected.dtype()),
      device_(expected.device()),
      requires_grad_(expected.requires_grad()),
      strided_(IsStrided(expected.unsafeGetTensorImpl())),
      sizes_(expected.sizes()),
      strides_(strided_ ? c10::DimVector(expected.strides()) : c10::DimVector()) {}

bool TensorCheck::SameLayout(const c10::TensorImpl* impl) const {
  if (impl->has_symbolic_sizes_strides()) return false;
  if (sizes_open_ ? impl->sizes().size() != sizes_.size() : !EqualSizes(impl->sizes(), sizes_)) return false;
  if (offset_ >= 0 && impl->storage_offset() != offset_) return false;
  return !strided_ || sizes_open_ || EqualSizes(impl->strides(), strides_);
}

std::string TensorCheck::ToString() const {
  const std::string layout = sizes_open_ ? absl::StrCat("of ", sizes_.size(), " open sizes")
                                         : absl::StrCat(ListText(sizes_), " strides ", ListText(strides_));
  return absl::StrCat(c10::toString(c10::typeMetaToScalarType(dtype_)), " ", layout, " on ", device_.str(),
                      requires_grad_ ? " requires_grad" : "", offset_ >= 0 ? absl::StrCat(" at ", offset_) : "");
}

std::string TensorCheck::Difference(PyObject* object) const {
  if (object == nullptr) return "nothing is there";
  const at::Tensor* tensor = TensorOrNull(object);
  if (tensor == nullptr) return absl::StrCat("type is ", Py_TYPE(object)->tp_name);
  if (!tensor->defined()) return "undefined tensor";
  if (tensor->dtype() != dtype_) {
    return absl::StrCat("dtype is ", c10::toString(tensor->scalar_type()), ", expected ",
                        c10::toString(c10::typeMetaToScalarType(dtype_)));
  }
  if (tensor->device() != device_) {
    return absl::StrCat("device is ", tensor->device().str(), ", expected ", device_.str());
  }
  if (tensor->requires_grad() != requires_grad_) {
    return absl::StrCat("requires_grad is ", tensor->requires_grad() ? "True" : "False", ", expected ",
                        requires_grad_ ? "True" : "False");
  }
  if (tensor->unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return "size is symbolic";
  if (sizes_open_ ? tensor->sizes().size() != sizes_.size() : !EqualSizes(tensor->sizes(), sizes_)) {
    return absl::StrCat("size is ", ListText(tensor->sizes()), ", expected ",
                        sizes_open_ ? absl::StrCat(sizes_.size(), " of any size") : ListText(sizes_));
  }
  if (tensor->key_set() != keys_) {
    return absl::StrCat("dispatch keys are ", c10::toString(tensor->key_set()), ", expected ", c10::toString(keys_));
  }
  if (strided_ && !sizes_open_ && !EqualSizes(tensor->strides(), strides_)) {
    return absl::StrCat("stride is ", ListText(tensor->strides()), ", expected ", ListText(strides_));
  }
  if (offset_ >= 0 && tensor->storage_offset() != offset_) {
    return absl::StrCat("storage offset is ", tensor->storage_offset(), ", expected ", offset_);
  }
  return "matches";
}

}  // namespace framejit
