// What several stages of a native backend ask about a graph: producers, constants, dtypes the loop IR has, and the type
// promotion of ATen.
#ifndef FRAMEJIT_BACKENDS_NATIVE_FACTS_H_
#define FRAMEJIT_BACKENDS_NATIVE_FACTS_H_

#include <c10/core/Scalar.h>

#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "backends/loop/loop_ir.h"
#include "graph/graph.h"

namespace framejit::native {

struct GraphFacts {
  GraphFacts(const Graph& graph, c10::Device device);

  const Graph& graph;
  const c10::Device device;                 // what kernels run on
  std::vector<int32_t> producers;           // by ValueId; -1 for inputs and constants
  std::vector<ValueId> roots;               // by ValueId; see AliasRoots
  std::vector<std::vector<int32_t>> users;  // by ValueId: nodes that read it, in order
  std::vector<bool> escapes;                // by ValueId: an output, or the value of a mutation
  absl::flat_hash_map<ValueId, const at::Tensor*> constants;

  // The number a zero-dimensional constant on the CPU holds; nullopt for everything else.
  std::optional<c10::Scalar> ScalarConstant(ValueId id) const;
  // A value the generated code may read or write: on its device, and HasLoopForm.
  bool IsLoopValue(ValueId id) const { return graph.meta(id).device == device && HasLoopForm(graph.meta(id)); }
  // The same, or a number.
  bool IsLoopOperand(ValueId id) const { return IsLoopValue(id) || ScalarConstant(id).has_value(); }

  // Without conjugate or negative bit, of a type the IR has.
  static bool HasLoopForm(const TensorMeta& meta);
};

std::optional<loop::DType> LoopDType(at::ScalarType type);
// The type ATen's kernels compute in: float for reduced precision, a machine integer for narrow integers.
loop::DType ComputeDType(loop::DType storage);

// ATen's type promotion (at::result_type) over operands that are known by their metadata.
class Promotion {
 public:
  void AddTensor(at::ScalarType type, int64_t dim);
  void AddWrappedNumber(at::ScalarType type);  // a Python number, or a tensor made from one
  at::ScalarType Result() const;

 private:
  at::ScalarType dim_ = at::ScalarType::Undefined;
  at::ScalarType zero_dim_ = at::ScalarType::Undefined;
  at::ScalarType wrapped_ = at::ScalarType::Undefined;
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_FACTS_H_
