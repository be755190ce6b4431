// FakeTensorImpl; see the header.
#include "graph/fake/fake_tensor_impl.h"

#include <c10/core/InferenceMode.h>

#include <utility>

#include "graph/fake/recording.h"

namespace framejit {

using c10::DispatchKey;
using c10::DispatchKeySet;

FakeTensorImpl::FakeTensorImpl(DispatchKeySet keys, caffe2::TypeMeta dtype, c10::Device device)
    : c10::TensorImpl(keys, dtype, device) {}

// The one place that chooses a fake's keys, but for those of conjugates and negatives. Inference-ness follows the
// shadow: a view of a normal tensor stays normal inside inference mode, and only normal tensors have autograd keys.
DispatchKeySet FakeTensorImpl::KeysFor(caffe2::TypeMeta dtype, c10::Device device, bool inference) {
  DispatchKeySet keys{c10::computeDispatchKey(c10::typeMetaToScalarType(dtype), c10::kStrided, device),
                      DispatchKey::Fake};
  const c10::BackendComponent backend = keys.highestBackendKey();
  keys = keys | c10::getAutocastRelatedKeySetFromBackend(backend);
  return inference ? keys : keys | c10::getAutogradRelatedKeySetFromBackend(backend);
}

at::Tensor FakeTensorImpl::Wrap(at::Tensor shadow, c10::Device device, FakeRecording& recording) {
  c10::TensorImpl& source = *shadow.unsafeGetTensorImpl();
  DispatchKeySet keys = KeysFor(source.dtype(), device, source.is_inference());
  if (source.key_set().has(DispatchKey::Conjugate)) keys = keys.add(DispatchKey::Conjugate);
  if (source.key_set().has(DispatchKey::Negative)) keys = keys.add(DispatchKey::Negative);
  auto fake = c10::make_intrusive<FakeTensorImpl>(keys, source.dtype(), device);
  fake->CopyMetadata(source, recording.TwinOf(shadow.storage(), device), device, keys);
  if (!fake->is_inference()) fake->set_version_counter(c10::VariableVersion(0));
  fake->recording_serial_ = recording.serial();
  fake->shadow_ = std::move(shadow);
  return at::Tensor(std::move(fake));
}

// Whether it is an inference tensor, and with that its keys and its version, is for the constructor to say, as it is
// where a kernel makes a tensor.
at::Tensor FakeTensorImpl::NewLike(const FakeTensorImpl& source, FakeRecording& recording) {
  const c10::Device device = *source.device_opt_;
  const DispatchKeySet keys = KeysFor(source.dtype(), device, c10::InferenceMode::is_enabled());
  auto fake = c10::make_intrusive<FakeTensorImpl>(keys, source.dtype(), device);
  fake->key_set_ = keys;
  fake->set_sizes_contiguous(source.sizes());
  fake->storage_ = recording.NewStorage(fake->numel() * static_cast<int64_t>(fake->itemsize()), device);
  fake->recording_serial_ = recording.serial();
  return at::Tensor(std::move(fake));
}

const at::Tensor& FakeTensorImpl::shadow(FakeRecording& recording) {
  if (shadow_.defined()) return shadow_;
  c10::InferenceMode inference(is_inference());
  shadow_ = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(recording.ShadowStorageOf(storage_)),
                                                     DispatchKeySet(DispatchKey::Meta), dtype());
  c10::TensorImpl* shadow = shadow_.unsafeGetTensorImpl();
  shadow->set_sizes_and_strides(sizes(), strides(), storage_offset());
  if (is_conj()) shadow->_set_conj(true);
  if (is_neg()) shadow->_set_neg(true);
  if (is_wrapped_number()) shadow->set_wrapped_number(true);
  return shadow_;
}

void FakeTensorImpl::CopyMetadata(const c10::TensorImpl& source, c10::Storage storage, c10::Device device,
                                  DispatchKeySet keys) {
  copy_tensor_metadata(&source, this, is_inference() ? c10::VariableVersion() : version_counter(),
                       allow_tensor_metadata_change());
  storage_ = std::move(storage);
  device_opt_ = device;
  key_set_ = keys;
}

void FakeTensorImpl::Refresh(FakeRecording& recording) {
  if (!shadow_.defined()) return;
  const c10::Device device = *device_opt_;
  const bool allow = allow_tensor_metadata_change();
  CopyMetadata(*shadow_.unsafeGetTensorImpl(), recording.TwinOf(shadow_.storage(), device), device, key_set_);
  set_allow_tensor_metadata_change(allow);
}

// The copy gets a shadow of its own: metadata changes of the one are not seen by the other, writes to memory are.
// Where nobody asked for the shadow yet, the copy's is made of the copy.
c10::intrusive_ptr<FakeTensorImpl> FakeTensorImpl::Detached(bool allow_tensor_metadata_change) const {
  auto copy = c10::make_intrusive<FakeTensorImpl>(key_set_, dtype(), *device_opt_);
  copy_tensor_metadata(this, copy.get(), c10::VariableVersion(), allow_tensor_metadata_change);
  copy->storage_ = storage_;
  copy->device_opt_ = device_opt_;
  copy->key_set_ = key_set_;
  if (shadow_.defined())
    copy->shadow_ = at::Tensor(shadow_.unsafeGetTensorImpl()->shallow_copy_and_detach(
        c10::VariableVersion(0), /*allow_tensor_metadata_change=*/true));
  copy->value_ = value_;
  copy->recording_serial_ = recording_serial_;
  return copy;
}

c10::intrusive_ptr<c10::TensorImpl> FakeTensorImpl::shallow_copy_and_detach(const c10::VariableVersion& version_counter,
                                                                            bool allow_tensor_metadata_change) const {
  auto copy = Detached(allow_tensor_metadata_change);
  if (!copy->is_inference()) copy->set_version_counter(version_counter);
  return copy;
}

c10::intrusive_ptr<c10::TensorImpl> FakeTensorImpl::shallow_copy_and_detach(c10::VariableVersion&& version_counter,
                                                                            bool allow_tensor_metadata_change) const {
  auto copy = Detached(allow_tensor_metadata_change);
  if (!copy->is_inference()) copy->set_version_counter(std::move(version_counter));
  return copy;
}

void FakeTensorImpl::shallow_copy_from(const c10::intrusive_ptr<c10::TensorImpl>& other) {
  TORCH_CHECK(typeid(*other) == typeid(FakeTensorImpl),
              "framejit: the data of a real tensor was assigned to a tensor that is being recorded");
  const auto* source = static_cast<const FakeTensorImpl*>(other.get());
  copy_tensor_metadata(source, this, version_counter(), allow_tensor_metadata_change());
  shadow_ = source->shadow_;
  value_ = source->value_;
  recording_serial_ = source->recording_serial_;
}

void FakeTensorImpl::release_resources() {
  c10::TensorImpl::release_resources();
  shadow_.reset();
}

}  // namespace framejit
