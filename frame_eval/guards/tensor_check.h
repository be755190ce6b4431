// TensorCheck: the properties of a tensor that a recording depends on, read from TensorImpl directly.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_TENSOR_CHECK_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_TENSOR_CHECK_H_

#include <ATen/core/Tensor.h>
#include <Python.h>

#include <optional>
#include <string>

namespace framejit {

// The tensor in `object`, or null where it is not one. Does not run user code (`__class__` and `__instancecheck__` are
// not asked).
const at::Tensor* TensorOrNull(PyObject* object);

// Whether no history leads to the tensor and nothing but torch runs for its gradient; `accumulates`: nor for what is
// accumulated into it.
bool IsPlainLeaf(const at::Tensor& tensor, bool accumulates);

class TensorCheck {
 public:
  explicit TensorCheck(const at::Tensor& expected);

  bool Matches(const at::Tensor& tensor) const {
    const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    return impl->key_set() == keys_ && impl->dtype() == dtype_ && device_ == impl->device() &&
           impl->requires_grad() == requires_grad_ && SameLayout(impl);
  }
  bool Matches(PyObject* object) const {
    const at::Tensor* tensor = TensorOrNull(object);
    return tensor != nullptr && Matches(*tensor);
  }
  // "float32 [2, 3] strides [3, 1] on cpu" of a tensor, and the first property of `object` that differs.
  std::string Difference(PyObject* object) const;
  // From now on sizes and strides need not match, but for their number.
  void LeaveSizesOpen() { sizes_open_ = true; }
  bool sizes_open() const { return sizes_open_; }
  // From now on the storage offset has to match as well.
  void RequireOffset(int64_t offset) { offset_ = offset; }
  std::string ToString() const;

 private:
  bool SameLayout(const c10::TensorImpl* impl) const;

  c10::DispatchKeySet keys_;
  caffe2::TypeMeta dtype_;
  c10::Device device_;
  bool requires_grad_;
  bool strided_;
  bool sizes_open_ = false;
  int64_t offset_ = -1;  // any
  c10::DimVector sizes_;
  c10::DimVector strides_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_TENSOR_CHECK_H_
