// FakeTensorImpl: a tensor that claims a real device and dtype and holds no data. Metadata kernels are given its shadow
// instead, a meta tensor with its layout, which is made when one first asks for it. This file owns the choice of
// dispatch keys and the aliasing rules of fakes; what operators do with them is graph/fake/fallback.cc.
#ifndef FRAMEJIT_GRAPH_FAKE_FAKE_TENSOR_IMPL_H_
#define FRAMEJIT_GRAPH_FAKE_FAKE_TENSOR_IMPL_H_

#include <ATen/core/Tensor.h>

#include <typeinfo>

#include "graph/graph.h"

namespace framejit {

class FakeRecording;

class FakeTensorImpl final : public c10::TensorImpl {
 public:
  // A fake over `shadow`, which must be a meta tensor that no other fake uses. Its storage is the recording's twin of
  // the shadow's storage, so fakes alias exactly where their shadows do.
  static at::Tensor Wrap(at::Tensor shadow, c10::Device device, FakeRecording& recording);
  // A fake with memory of its own, contiguous, of the sizes, dtype and device of `source`, and no shadow yet.
  static at::Tensor NewLike(const FakeTensorImpl& source, FakeRecording& recording);

  FakeTensorImpl(c10::DispatchKeySet keys, caffe2::TypeMeta dtype, c10::Device device);

  const at::Tensor& shadow(FakeRecording& recording);
  ValueId value() const { return value_; }
  void set_value(ValueId value) { value_ = value; }
  // The recording that the fake belongs to (FakeRecording::serial); it is used in no other.
  uint64_t recording_serial() const { return recording_serial_; }

  // Takes the shadow's metadata again, after an operator wrote it.
  void Refresh(FakeRecording& recording);

  c10::intrusive_ptr<c10::TensorImpl> shallow_copy_and_detach(const c10::VariableVersion& version_counter,
                                                              bool allow_tensor_metadata_change) const override;
  c10::intrusive_ptr<c10::TensorImpl> shallow_copy_and_detach(c10::VariableVersion&& version_counter,
                                                              bool allow_tensor_metadata_change) const override;
  void shallow_copy_from(const c10::intrusive_ptr<c10::TensorImpl>& other) override;
  void release_resources() override;
  const char* tensorimpl_type_name() const override { return "framejit::FakeTensorImpl"; }

 private:
  static c10::DispatchKeySet KeysFor(caffe2::TypeMeta dtype, c10::Device device, bool inference);
  void CopyMetadata(const c10::TensorImpl& source, c10::Storage storage, c10::Device device, c10::DispatchKeySet keys);
  c10::intrusive_ptr<FakeTensorImpl> Detached(bool allow_tensor_metadata_change) const;

  at::Tensor shadow_;  // undefined: has not been asked for
  ValueId value_ = kNoValue;
  uint64_t recording_serial_ = 0;
};

// The fake behind a tensor, or null where it is none. DispatchKey::Fake alone does not tell: torch has begun to use it.
inline FakeTensorImpl* AsFake(const at::Tensor& tensor) {
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (!impl->key_set().has(c10::DispatchKey::Fake) || typeid(*impl) != typeid(FakeTensorImpl)) return nullptr;
  return static_cast<FakeTensorImpl*>(impl);
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_FAKE_TENSOR_IMPL_H_
