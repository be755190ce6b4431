// OpInfo: what the recorder needs to know of an operator, resolved once per thread and operator: the kinds of its
// arguments and where its output metadata comes from (see MetadataSource).
#ifndef FRAMEJIT_GRAPH_FAKE_OP_INFO_H_
#define FRAMEJIT_GRAPH_FAKE_OP_INFO_H_

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/inlined_vector.h"
#include "graph/fake/own_metas.h"

namespace framejit {

enum class ArgumentKind : uint8_t { kOther, kTensor, kTensorList, kOptionalTensorList };

// In order of preference.
enum class MetadataSource : uint8_t {
  kOwn,         // own_metas.h
  kCppKernel,   // torch's C++ Meta kernel, or the CompositeExplicit kernel that eager runs on this backend too
  kFunctional,  // an out= operator: what its functional form has
  kDispatcher,  // whatever the dispatcher finds for Meta: mostly Python, 100 to 1000 times slower
  kComposite,   // CompositeImplicit: decomposed, each part records itself
  kOnFakes,     // asks only for metadata and returns no tensor: the backend's kernel runs on the fakes
};

// Operators whose results depend on data.
enum class DataDependence : uint8_t {
  kNone,
  kAlways,     // equal, nonzero, unique, ...
  kItem,       // _local_scalar_dense
  kMaskIndex,  // index: only with a boolean mask
};

// Where its kernel says how results are laid out (ProbeLayouts): nowhere, where an operand is not plainly contiguous,
// where that has five dimensions, or everywhere.
enum class Probe : uint8_t { kNever, kOtherFormats, kVolumes, kAlways };

struct OpInfo {
  c10::OperatorName name{"", ""};
  MetadataSource source = MetadataSource::kDispatcher;
  OwnMeta own = nullptr;
  const c10::KernelFunction* kernel = nullptr;       // kCppKernel, kComposite, kOnFakes
  const c10::KernelFunction* cuda_kernel = nullptr;  // kOnFakes: that of GPUs, where there is one
  std::optional<c10::OperatorHandle> functional;     // kFunctional
  absl::InlinedVector<ArgumentKind, 8> arguments;
  int device_argument = -1;
  uint64_t written_arguments = 0;  // bit i: argument i is written
  uint64_t number_arguments = 0;   // bit i: argument i is a Scalar
  DataDependence data_dependence = DataDependence::kNone;
  bool replaces_memory = false;  // set_, resize_: the tensor's storage or extent changes under other fakes
  bool leaf_on_gpu = false;      // a composite whose kernel for GPUs looks at memory: recorded as one operator there
  bool one_dtype = false;  // its kernels raise where tensors of several dtypes come together; its metadata does not
  bool returns_tensors = false;
  bool keeps_plain_layout = false;  // KeepsPlainLayout
  bool is_pointwise = false;        // as torch tags it
  Probe probe = Probe::kNever;
  bool recorded = true;  // false: only non-tensor results and no effect
  bool logged = false;
};

// The entry of `op` in this thread's cache.
OpInfo& OpInfoOf(const c10::OperatorHandle& op);

// "aten::add.Tensor".
std::string NameOf(const OpInfo& info);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_OP_INFO_H_
