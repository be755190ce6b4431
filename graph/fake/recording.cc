// FakeRecording; see the header.
#include "graph/fake/recording.h"

#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <utility>

namespace framejit {
namespace {

thread_local FakeRecording* current_recording = nullptr;
std::atomic<uint64_t> next_serial{1};
std::atomic<FakeSession::ArmFunction> arm_function{nullptr};

}  // namespace

c10::Storage MakeMetaStorage(c10::SymInt bytes) {
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), std::move(bytes),
                                                            c10::DataPtr(nullptr, c10::Device(c10::kMeta)),
                                                            c10::GetAllocator(c10::kMeta), /*resizable=*/true));
}

FakeRecording::FakeRecording() : serial_(next_serial.fetch_add(1, std::memory_order_relaxed)) {}

FakeRecording* FakeRecording::Current() { return current_recording; }

FakeRecording* FakeRecording::SetCurrent(FakeRecording* recording) {
  return std::exchange(current_recording, recording);
}

const c10::Storage& FakeRecording::TwinOf(const c10::Storage& shadow, c10::Device device) {
  auto [it, inserted] = memory_.try_emplace(shadow.unsafeGetStorageImpl());
  if (inserted) {
    auto twin = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), shadow.sym_nbytes(),
                                                      c10::DataPtr(nullptr, device), nullptr, /*resizable=*/false);
    twin->release_data_and_set_meta_custom_data_ptr_error_msg_(
        "framejit: the data of a tensor was asked for while its operators are recorded");
    it->second = Memory{shadow, c10::Storage(std::move(twin)), next_storage_++};
  }
  return it->second.twin;
}

int32_t FakeRecording::StorageId(const FakeTensorImpl& fake) const {
  auto it = memory_.find(fake.shadow().storage().unsafeGetStorageImpl());
  return it == memory_.end() ? -1 : it->second.id;
}

c10::Storage FakeRecording::ShadowStorageFor(const at::Tensor& real) {
  auto [it, inserted] = real_memory_.try_emplace(real.storage().unsafeGetStorageImpl());
  if (inserted) it->second = MakeMetaStorage(real.storage().sym_nbytes());
  return it->second;
}

ValueId FakeRecording::NewValue(FakeTensorImpl& fake) {
  TensorMeta& meta = graph.values.emplace_back();
  meta.dtype = c10::typeMetaToScalarType(fake.dtype());
  meta.device = fake.device();
  meta.sizes = fake.sizes();
  meta.strides = fake.strides();
  meta.storage_offset = fake.storage_offset();
  meta.is_conj = fake.is_conj();
  meta.is_neg = fake.is_neg();
  meta.storage = StorageId(fake);
  fake.set_value(static_cast<ValueId>(graph.values.size() - 1));
  return fake.value();
}

ValueId FakeRecording::FindConstant(const at::Tensor& real) const {
  auto it = constants_.find(real.unsafeGetTensorImpl());
  return it == constants_.end() ? kNoValue : it->second.id;
}

ValueId FakeRecording::AddConstant(const at::Tensor& key, at::Tensor held) {
  TensorMeta meta = DescribeTensor(held);
  meta.storage = next_storage_++;
  const ValueId id = graph.AddValue(std::move(meta));
  graph.constants.push_back(GraphConstant{id, std::move(held)});
  constants_[key.unsafeGetTensorImpl()] = Constant{key, id};
  return id;
}

std::shared_ptr<OpenNumber> FakeRecording::NewNumber(const at::Scalar& hint) {
  TensorMeta meta;
  meta.dtype = hint.isFloatingPoint() ? at::kDouble : at::kLong;
  meta.storage = next_storage_++;
  meta.is_number = true;
  has_numbers_ = true;
  return std::make_shared<OpenNumber>(
      OpenNumber{.hint = hint, .value = graph.AddValue(std::move(meta)), .recording_serial = serial_});
}

// What the tensor holds is what no number is likely to be, so that reading it shows.
at::Tensor FakeRecording::TensorOfNumber(const std::shared_ptr<OpenNumber>& number) {
  const bool is_float = number->hint.isFloatingPoint();
  at::Tensor tensor = WrapNumber(is_float ? at::Scalar(std::numeric_limits<double>::quiet_NaN())
                                          : at::Scalar(std::numeric_limits<int64_t>::min() + 7777));
  number_tensors_[tensor.unsafeGetTensorImpl()] = {tensor, number};
  return tensor;
}

std::shared_ptr<OpenNumber> FakeRecording::FindNumber(const at::Tensor& real) {
  if (!has_numbers_ || !real.unsafeGetTensorImpl()->is_wrapped_number()) return nullptr;
  const auto row = number_tensors_.find(real.unsafeGetTensorImpl());
  if (row != number_tensors_.end()) return row->second.number;
  std::shared_ptr<OpenNumber> number = NumberOfWrapped(real);
  if (number == nullptr || number->recording_serial != serial_) return nullptr;
  number_tensors_[real.unsafeGetTensorImpl()] = {real, number};
  return number;
}

void FakeRecording::Fail(BreakCode code, std::string detail) {
  if (!failure) failure = FakeSession::Failure{code, std::move(detail)};
}

TensorMeta DescribeTensor(const at::Tensor& tensor) {
  TensorMeta meta;
  meta.dtype = tensor.scalar_type();
  meta.device = tensor.device();
  meta.sizes = tensor.sizes();
  meta.strides = tensor.strides();
  meta.storage_offset = tensor.storage_offset();
  meta.requires_grad = tensor.requires_grad();
  meta.is_conj = tensor.is_conj();
  meta.is_neg = tensor.is_neg();
  return meta;
}

void FakeSession::SetArmFunction(ArmFunction arm) { arm_function.store(arm, std::memory_order_release); }

Disarm::Disarm() {
  const FakeSession::ArmFunction arm = arm_function.load(std::memory_order_acquire);
  previous_ = arm != nullptr && arm(false);
}

Disarm::~Disarm() {
  const FakeSession::ArmFunction arm = arm_function.load(std::memory_order_acquire);
  if (arm != nullptr) arm(previous_);
}

}  // namespace framejit
