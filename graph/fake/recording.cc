// FakeRecording; see the header.
#include "graph/fake/recording.h"

#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <typeinfo>
#include <utility>

#include "graph/fake/fake_storage.h"

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
  auto [it, inserted] = twins_.try_emplace(shadow.unsafeGetStorageImpl());
  if (inserted)
    it->second = c10::Storage(c10::make_intrusive<FakeStorage>(shadow.sym_nbytes(), device, next_storage_++, shadow));
  return it->second;
}

c10::Storage FakeRecording::NewStorage(c10::SymInt bytes, c10::Device device) {
  return c10::Storage(c10::make_intrusive<FakeStorage>(std::move(bytes), device, next_storage_++, c10::Storage()));
}

const c10::Storage& FakeRecording::ShadowStorageOf(const c10::Storage& memory) {
  FakeStorage* fake = FakeStorage::Of(memory);
  TORCH_INTERNAL_ASSERT(fake != nullptr, "framejit: a fake in memory of another kind");
  if (!fake->shadow()) {
    fake->set_shadow(MakeMetaStorage(memory.sym_nbytes()));
    twins_.emplace(fake->shadow().unsafeGetStorageImpl(), memory);
  }
  return fake->shadow();
}

int32_t FakeRecording::StorageId(const FakeTensorImpl& fake) {
  const FakeStorage* memory = FakeStorage::Of(fake.storage());
  return memory == nullptr ? -1 : memory->id();
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

ValueId FakeRecording::NumberConstant(const at::Tensor& wrapped) {
  const at::ScalarType dtype = wrapped.scalar_type();
  const bool is_plain = typeid(*wrapped.unsafeGetTensorImpl()) == typeid(c10::TensorImpl) && !wrapped._is_zerotensor();
  if (!is_plain || (dtype != at::kDouble && dtype != at::kLong)) {
    const ValueId known = FindConstant(wrapped);
    return known != kNoValue ? known : AddConstant(wrapped, wrapped);
  }
  uint64_t bits;
  std::memcpy(&bits, wrapped.const_data_ptr(), sizeof bits);
  ValueId& id = number_constants_.try_emplace({dtype, bits}, kNoValue).first->second;
  if (id == kNoValue) id = AddConstant(wrapped, wrapped);
  return id;
}

ValueId FakeRecording::NumberConstant(const at::Scalar& number) {
  const bool is_float = number.isFloatingPoint();
  const uint64_t bits =
      is_float ? std::bit_cast<uint64_t>(number.toDouble()) : std::bit_cast<uint64_t>(number.toLong());
  const auto known = number_constants_.find({is_float ? at::kDouble : at::kLong, bits});
  return known != number_constants_.end() ? known->second : NumberConstant(WrapNumber(number));
}

std::shared_ptr<OpenNumber> FakeRecording::NewNumber(const at::Scalar& hint) {
  TensorMeta meta;
  meta.dtype = hint.isFloatingPoint() ? at::kDouble : at::kLong;
  meta.storage = next_storage_++;
  meta.is_number = true;
  return NumberOfValue(graph.AddValue(std::move(meta)), hint);
}

std::shared_ptr<OpenNumber> FakeRecording::NumberOfValue(ValueId value, const at::Scalar& hint) {
  has_numbers_ = true;
  return std::make_shared<OpenNumber>(OpenNumber{.hint = hint, .value = value, .recording_serial = serial_});
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
