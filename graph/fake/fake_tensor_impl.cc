// FakeTensorImpl; see the header.
#include "graph/fake/fake_tensor_impl.h"

#include <utility>

#include "graph/fake/recording.h"

namespace framejit {

using c10::DispatchKey;
using c10::DispatchKeySet;

FakeTensorImpl::FakeTensorImpl(DispatchKeySet keys, caffe2::TypeMeta dtype, c10::Device device)
    : c10::TensorImpl(keys, dtype, device) {}

// The one place that chooses a fake's keys. Inference-ness follows the shadow: a view of a normal tensor stays normal
// inside inference mode, and only normal tensors have autograd keys.
DispatchKeySet FakeTensorImpl::KeysFor(const c10::TensorImpl& shadow, c10::Device device) {
  DispatchKeySet keys{c10::computeDispatchKey(c10::typeMetaToScalarType(shadow.dtype()), shadow.layout(), device),
                      DispatchKey::Fake};
  if (shadow.key_set().has(DispatchKey::Conjugate)) keys = keys.add(DispatchKey::Conjugate);
  if (shadow.key_set().has(DispatchKey::Negative)) keys = keys.add(DispatchKey::Negative);
  const c10::BackendComponent backend = keys.highestBackendKey();
  keys = keys | c10::getAutocastRelatedKeySetFromBackend(backend);
  if (!const_cast<c10::TensorImpl&>(shadow).is_inference()) {
    keys = keys | c10::getAutogradRelatedKeySetFromBackend(backend);
  }
  return keys;
}

at::Tensor FakeTensorImpl::Wrap(at::Tensor shadow, c10::Device device, FakeRecording& recording) {
  const c10::TensorImpl& source = *shadow.unsafeGetTensorImpl();
  const DispatchKeySet keys = KeysFor(source, device);
  auto fake = c10::make_intrusive<FakeTensorImpl>(keys, source.dtype(), device);
  fake->CopyMetadata(source, recording.TwinOf(shadow.storage(), device), device, keys);
  if (!fake->is_inference()) fake->set_version_counter(c10::VariableVersion(0));
  fake->recording_serial_ = recording.serial();
  fake->shadow_ = std::move(shadow);
  return at::Tensor(std::move(fake));
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
  const c10::Device device = *device_opt_;
  const bool allow = allow_tensor_metadata_change();
  CopyMetadata(*shadow_.unsafeGetTensorImpl(), recording.TwinOf(shadow_.storage(), device), device, key_set_);
  set_allow_tensor_metadata_change(allow);
}

// The copy gets a shadow of its own: metadata changes of the one are not seen by the other, writes to memory are.
c10::intrusive_ptr<FakeTensorImpl> FakeTensorImpl::Detached(bool allow_tensor_metadata_change) const {
  auto copy = c10::make_intrusive<FakeTensorImpl>(key_set_, dtype(), *device_opt_);
  copy_tensor_metadata(this, copy.get(), c10::VariableVersion(), allow_tensor_metadata_change);
  copy->storage_ = storage_;
  copy->device_opt_ = device_opt_;
  copy->key_set_ = key_set_;
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
