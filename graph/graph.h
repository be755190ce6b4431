// The graph: static single assignment over ATen operators. A recording produces one; passes rewrite it; backends run
// it. This file owns the data; printing, parsing and verification are graph/print.h, graph/parse.h, graph/verify.h.
#ifndef FRAMEJIT_GRAPH_GRAPH_H_
#define FRAMEJIT_GRAPH_GRAPH_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"

namespace framejit {

using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;  // an absent optional tensor

// What eager PyTorch would say of a tensor at this point of the program.
struct TensorMeta {
  at::ScalarType dtype = at::kFloat;
  c10::Device device{c10::kCPU};
  c10::DimVector sizes;
  c10::DimVector strides;
  int64_t storage_offset = 0;
  bool requires_grad = false;
  bool is_conj = false;
  bool is_neg = false;
  // An input without dimensions that a Python number comes in by: a number to type promotion.
  bool is_number = false;
  // Values with the same id share memory (views, in-place results). Ids are local to the graph.
  int32_t storage = -1;

  int64_t numel() const;
  bool is_contiguous() const;
};

// One operand of a node, in the position its operator's schema gives it. Defaults are spelled out.
struct Operand {
  enum class Kind : uint8_t {
    kConstant,   // `constant`: any IValue without tensors (numbers, lists of them, dtype, device, None, str, generator)
    kValue,      // `value`: a tensor; kNoValue is an undefined or None tensor
    kValueList,  // `values`: Tensor[] or Tensor?[]; kNoValue entries are None
  };
  Kind kind = Kind::kConstant;
  ValueId value = kNoValue;
  std::vector<ValueId> values;
  c10::IValue constant;

  static Operand Value(ValueId id);
  static Operand ValueList(std::vector<ValueId> ids);
  static Operand Constant(c10::IValue constant);
};

struct Node {
  c10::OperatorHandle op;
  absl::InlinedVector<Operand, 4> operands;
  // The tensors it returns, Tensor[] returns flattened; kNoValue where an output is undefined.
  absl::InlinedVector<ValueId, 2> outputs;
  // Lengths of Tensor[] returns, in order of those returns; empty where there is none.
  absl::InlinedVector<int32_t, 1> list_lengths;
  int32_t location = -1;    // index into Graph::locations
  int32_t torch_call = -1;  // index into TorchGraph::calls of the call it came from
};

// A line of the user's program.
struct SourceLocation {
  std::string file;
  int line = 0;
  std::string function;
};

struct GraphConstant {
  ValueId id;
  at::Tensor tensor;  // real; never written, never handed out
};

// After the last node has run without raising, `value` is copied into the input: a mutation the user sees.
struct InputMutation {
  ValueId input;
  ValueId value;
};

// What whoever compiles a graph, or what was made of it, goes by.
struct GraphModes {
  // Whatever becomes of the graph computes eager's very bits: nothing is reassociated or contracted, no operator
  // replaced by another formula.
  bool strict = false;
  // What the calling thread spends on a call counts most: a backend that can launch the whole graph at once does.
  bool reduce_overhead = false;
  // How long code runs counts more than how soon it is there: a backend that can measure its choices does.
  bool autotune = false;
  // The graph is one of many of its recording, for other sizes each.
  bool open_sizes = false;

  friend bool operator==(const GraphModes&, const GraphModes&) = default;
};

struct Graph {
  std::vector<TensorMeta> values;  // indexed by ValueId
  std::vector<ValueId> inputs;
  std::vector<GraphConstant> constants;
  std::vector<Node> nodes;
  std::vector<InputMutation> mutations;  // filled by functionalization; in program order
  std::vector<ValueId> outputs;
  std::vector<SourceLocation> locations;
  GraphModes modes;

  ValueId AddValue(TensorMeta meta);
  const TensorMeta& meta(ValueId id) const { return values[static_cast<size_t>(id)]; }
};

// "aten::add.Tensor": the operator's name with its overload.
std::string OperatorName(const c10::OperatorHandle& op);
// True where the operator writes one of its arguments (its schema's alias annotations say so).
bool MutatesArguments(const c10::OperatorHandle& op);
// True where the operator draws random numbers from a generator (tag nondeterministic_seeded).
bool IsRandom(const c10::OperatorHandle& op);
// The devices whose default generators the graph may draw from, or seed.
std::vector<c10::Device> RandomDevices(const Graph& graph);
// True where the operand is what the schema's argument defaults to. An absent tensor equals a default of None, however
// the operand says it; constants compare exactly (graph/constant.h).
bool EqualsDefault(const Operand& operand, const c10::Argument& argument);
// Calls `visit(ValueId&)` for every tensor operand, absent ones left out.
template <typename NodeT, typename Visit>
void ForEachOperandValue(NodeT& node, Visit visit) {
  for (auto& operand : node.operands) {
    if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue) visit(operand.value);
    if (operand.kind == Operand::Kind::kValueList) {
      for (auto& value : operand.values) {
        if (value != kNoValue) visit(value);
      }
    }
  }
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_GRAPH_H_
