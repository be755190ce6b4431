// FakeRecording: the state of one FakeSession while operators run: the graph being built, storage identities, constants
// and the first failure. One recording is current per thread. Internal to graph/fake.
#ifndef FRAMEJIT_GRAPH_FAKE_RECORDING_H_
#define FRAMEJIT_GRAPH_FAKE_RECORDING_H_

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "graph/fake/fake_session.h"
#include "graph/fake/fake_tensor_impl.h"
#include "graph/fake/number_answers.h"
#include "graph/fake/open_number.h"
#include "graph/graph.h"

namespace framejit {

// Dispatch keys above the backends that metadata kernels must not meet: they run on bare meta tensors.
inline const c10::DispatchKeySet kAboveMetadata =
    c10::autograd_dispatch_keyset_with_ADInplaceOrView |
    c10::DispatchKeySet({c10::DispatchKey::Fake, c10::DispatchKey::Functionalize, c10::DispatchKey::Python,
                         c10::DispatchKey::PythonTLSSnapshot, c10::DispatchKey::Conjugate, c10::DispatchKey::Negative,
                         c10::DispatchKey::ZeroTensor, c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA});

class FakeRecording {
 public:
  FakeRecording();
  FakeRecording(const FakeRecording&) = delete;
  FakeRecording& operator=(const FakeRecording&) = delete;

  static FakeRecording* Current();
  // Makes `recording` (or none) current in this thread; returns the previous one.
  static FakeRecording* SetCurrent(FakeRecording* recording);

  uint64_t serial() const { return serial_; }
  // The memory of fakes whose shadows are in this one.
  const c10::Storage& TwinOf(const c10::Storage& shadow, c10::Device device);
  // Memory of a new fake that has no shadow yet.
  c10::Storage NewStorage(c10::SymInt bytes, c10::Device device);
  // The meta storage for shadows of the fakes in `memory`, made where there is none yet.
  const c10::Storage& ShadowStorageOf(const c10::Storage& memory);
  // The id of the memory of a fake (TensorMeta::storage).
  static int32_t StorageId(const FakeTensorImpl& fake);
  // The shadow storage for a real input's storage: inputs that share memory keep sharing it.
  c10::Storage ShadowStorageFor(const at::Tensor& real);

  // Appends a value with the fake's metadata of now and makes the fake stand for it.
  ValueId NewValue(FakeTensorImpl& fake);
  // The constant that a real tensor is registered as; kNoValue where it is none.
  ValueId FindConstant(const at::Tensor& real) const;
  // Registers `held`, which is kept and never written, as the constant for tensor `key`.
  ValueId AddConstant(const at::Tensor& key, at::Tensor held);
  // The constant for a number that torch wrapped: one for each value and type, whatever tensor it comes in.
  ValueId NumberConstant(const at::Tensor& wrapped);
  // The same for one that torch would wrap: an int or a float.
  ValueId NumberConstant(const at::Scalar& number);
  // A value for a number that the graph leaves open, no input yet.
  std::shared_ptr<OpenNumber> NewNumber(const at::Scalar& hint);
  // One that is a value already.
  std::shared_ptr<OpenNumber> NumberOfValue(ValueId value, const at::Scalar& hint);
  // The tensor that stands for such a number.
  at::Tensor TensorOfNumber(const std::shared_ptr<OpenNumber>& number);
  // The number that the tensor stands for, or null. Torch's parser makes such tensors of Python's symbolic numbers,
  // too.
  std::shared_ptr<OpenNumber> FindNumber(const at::Tensor& real);

  void Fail(BreakCode code, std::string detail);

  Graph graph;
  std::optional<FakeSession::Failure> failure;
  int32_t location = -1;
  int32_t torch_call = -1;
  bool functionalizing = false;         // the operators come from Functionalize
  bool keeps_inputs = false;            // FakeSession::KeepInputs
  std::vector<at::Tensor> real_inputs;  // then: one per input of the graph
  bool reads_data = false;              // FakeSession::ReadData
  bool has_read_data = false;
  std::vector<NumberAnswer> number_answers;

 private:
  struct Constant {
    at::Tensor key;  // held, so that its address is not reused
    ValueId id;
  };

  uint64_t serial_;
  int32_t next_storage_ = 0;
  absl::flat_hash_map<const c10::StorageImpl*, c10::Storage> twins_;        // shadow storage -> FakeStorage
  absl::flat_hash_map<const c10::StorageImpl*, c10::Storage> real_memory_;  // real storage -> shadow storage
  absl::flat_hash_map<const c10::TensorImpl*, Constant> constants_;
  absl::flat_hash_map<std::pair<at::ScalarType, uint64_t>, ValueId> number_constants_;  // by type and bits
  bool has_numbers_ = false;
  struct NumberTensor {
    at::Tensor key;  // held, so that its address is not reused
    std::shared_ptr<OpenNumber> number;
  };
  absl::flat_hash_map<const c10::TensorImpl*, NumberTensor> number_tensors_;
};

// Memory for shadows, `bytes` large and without data.
c10::Storage MakeMetaStorage(c10::SymInt bytes);

// Metadata of a fake or real tensor; TensorMeta::storage is left at -1.
TensorMeta DescribeTensor(const at::Tensor& tensor);

// Creates the dispatcher's fallback for DispatchKey::Fake, once per process.
void RegisterFallback();

// Calls the recorder's arm callback (FakeSession::SetArmFunction); disarmed while alive.
class Disarm {
 public:
  Disarm();
  ~Disarm();
  Disarm(const Disarm&) = delete;
  Disarm& operator=(const Disarm&) = delete;

 private:
  bool previous_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_RECORDING_H_
