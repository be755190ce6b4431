// FakeSession: the public face of graph/fake. Owns a FakeRecording and the thread-local dispatch state; see the header.
#include "graph/fake/fake_session.h"

#include <ATen/EmptyTensor.h>
#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/ops/clone.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/TensorOptions.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "graph/error_text.h"
#include "graph/fake/fake_tensor_impl.h"
#include "graph/fake/known_value.h"
#include "graph/fake/recording.h"
#include "graph/recorded_level.h"

namespace framejit {
namespace {

using c10::DispatchKey;

thread_local FakeSession* current_session = nullptr;

// Why a tensor of this kind cannot be recorded; empty where it can.
std::string Unrecordable(const at::Tensor& real) {
  if (!real.defined()) return "undefined tensor";
  if (IsFake(real)) return "a tensor of a recording";
  if (real.layout() != c10::kStrided) return absl::StrCat("layout ", c10::str(real.layout()));
  if (real.is_quantized()) return "quantised tensor";
  if (real.is_nested()) return "nested tensor";
  if (real._is_zerotensor()) return "zero tensor";
  const c10::DispatchKeySet keys = real.key_set();
  if (keys.has(DispatchKey::FuncTorchBatched) || keys.has(DispatchKey::FuncTorchGradWrapper) ||
      keys.has(DispatchKey::Functionalize)) {
    return "functorch or functional wrapper";
  }
  if (keys.has(DispatchKey::Python)) return "tensor subclass with __torch_dispatch__";
  if (keys.has(DispatchKey::Fake)) return "fake tensor";
  if (!real.is_cpu() && !real.is_cuda()) return absl::StrCat("device ", real.device().str());
  if (!real.has_storage() || real.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return "tensor without storage";
  return "";
}

at::Tensor MakeShadow(const at::Tensor& real, FakeRecording& recording) {
  c10::InferenceMode inference(real.is_inference());
  at::Tensor shadow = at::detail::make_tensor<c10::TensorImpl>(recording.ShadowStorageFor(real),
                                                               c10::DispatchKeySet(DispatchKey::Meta), real.dtype());
  c10::TensorImpl* impl = shadow.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(real.sizes(), real.strides(), real.storage_offset());
  if (real.is_conj()) impl->_set_conj(true);
  if (real.is_neg()) impl->_set_neg(true);
  if (real.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return shadow;
}

}  // namespace

bool IsFake(const at::Tensor& tensor) { return tensor.defined() && AsFake(tensor) != nullptr; }

at::Tensor TensorWithoutMemory(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype,
                               c10::Device device) {
  const caffe2::TypeMeta type = c10::scalarTypeToTypeMeta(dtype);
  const size_t bytes = at::detail::computeStorageNbytes(sizes, strides, type.itemsize());
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, c10::DataPtr(nullptr, device), /*allocator=*/nullptr,
                       /*resizable=*/false);
  const c10::DispatchKeySet keys(c10::computeDispatchKey(dtype, c10::kStrided, device));
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, type);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

struct FakeSession::State {
  FakeRecording recording;
  FakeSession* outer_session = nullptr;
  FakeRecording* outer_recording = nullptr;
  bool outer_included = false;
};

FakeSession::FakeSession() : state_(std::make_unique<State>()) {
  RegisterFallback();
  state_->outer_session = std::exchange(current_session, this);
  state_->outer_recording = FakeRecording::SetCurrent(&state_->recording);
  state_->outer_included = c10::impl::tls_is_dispatch_key_included(DispatchKey::Fake);
  c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, true);
}

FakeSession::~FakeSession() {
  c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, state_->outer_included);
  FakeRecording::SetCurrent(state_->outer_recording);
  current_session = state_->outer_session;
}

FakeSession* FakeSession::Current() { return current_session; }

Graph& FakeSession::graph() { return state_->recording.graph; }

const std::optional<FakeSession::Failure>& FakeSession::failure() const { return state_->recording.failure; }

void FakeSession::SetPosition(int32_t location, int32_t torch_call) {
  state_->recording.location = location;
  state_->recording.torch_call = torch_call;
}

absl::StatusOr<at::Tensor> FakeSession::MakeInput(const at::Tensor& real) {
  if (std::string why = Unrecordable(real); !why.empty()) return absl::UnimplementedError(why);
  FakeRecording& recording = state_->recording;
  at::Tensor fake = FakeTensorImpl::Wrap(MakeShadow(real, recording), real.device(), recording);
  const ValueId id = recording.NewValue(*AsFake(fake));
  if (real.requires_grad()) fake.set_requires_grad(true);
  recording.graph.values[static_cast<size_t>(id)].requires_grad = real.requires_grad();
  recording.graph.inputs.push_back(id);
  if (recording.keeps_inputs) recording.real_inputs.push_back(real);
  return fake;
}

absl::StatusOr<at::Tensor> FakeSession::MakeConstant(const at::Tensor& real) {
  if (std::string why = Unrecordable(real); !why.empty()) return absl::UnimplementedError(why);
  FakeRecording& recording = state_->recording;
  try {
    // The constant is a copy: the program may write the tensor it made, the graph's constant stays. Value semantics of
    // numbers wrapped into tensors are kept by the copy's flag.
    at::Tensor held;
    {
      Pause pause;
      c10::InferenceMode normal(false);
      c10::impl::ExcludeDispatchKeyGuard below(kAboveRecordedViews);
      held = at::clone(real);
    }
    const ValueId constant = recording.AddConstant(real, std::move(held));
    at::Tensor view = FakeTensorImpl::Wrap(MakeShadow(real, recording), real.device(), recording);
    AsFake(view)->set_value(constant);
    at::Tensor fake;
    {
      c10::impl::ExcludeDispatchKeyGuard below(kAboveRecordedViews);
      fake = at::clone(view);
    }
    if (real.requires_grad()) fake.set_requires_grad(true);
    return fake;
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("constant tensor: ", ErrorText(error)));
  }
}

std::shared_ptr<OpenNumber> FakeSession::NewNumber(const at::Scalar& hint) { return state_->recording.NewNumber(hint); }

// Autograd sets requires_grad on a result after the node is recorded, so the graph learns it here.
ValueId FakeSession::ValueOf(const at::Tensor& fake) const {
  const FakeTensorImpl* impl = fake.defined() ? AsFake(fake) : nullptr;
  if (impl == nullptr || impl->recording_serial() != state_->recording.serial()) return kNoValue;
  if (impl->value() != kNoValue) {
    state_->recording.graph.values[static_cast<size_t>(impl->value())].requires_grad = fake.requires_grad();
  }
  return impl->value();
}

std::optional<at::Tensor> FakeSession::KnownValue(const at::Tensor& fake) const {
  const ValueId id = ValueOf(fake);
  return id == kNoValue ? std::nullopt : framejit::KnownValue(state_->recording, id);
}

void FakeSession::KeepInputs() { state_->recording.keeps_inputs = true; }

bool FakeSession::ReadData(bool on) {
  state_->recording.reads_data = on && state_->recording.keeps_inputs;
  return std::exchange(state_->recording.has_read_data, false);
}

std::optional<at::Tensor> FakeSession::RealValue(const at::Tensor& fake) const {
  const ValueId id = ValueOf(fake);
  if (id == kNoValue || !state_->recording.keeps_inputs) return std::nullopt;
  return framejit::RealValue(state_->recording, id);
}

TensorMeta FakeSession::MetaOf(const at::Tensor& fake) {
  TensorMeta meta = DescribeTensor(fake);
  const FakeTensorImpl* impl = AsFake(fake);
  const FakeRecording* recording = current_session == nullptr ? nullptr : &current_session->state_->recording;
  if (impl != nullptr && recording != nullptr && recording->serial() == impl->recording_serial()) {
    meta.storage = recording->StorageId(*impl);
  }
  return meta;
}

FakeSession::Pause::Pause()
    : session_(current_session), included_(c10::impl::tls_is_dispatch_key_included(DispatchKey::Fake)) {
  current_session = nullptr;
  FakeRecording::SetCurrent(nullptr);
  c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, false);
}

FakeSession::Pause::~Pause() {
  current_session = session_;
  FakeRecording::SetCurrent(session_ == nullptr ? nullptr : &session_->state_->recording);
  c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, included_);
}

}  // namespace framejit
