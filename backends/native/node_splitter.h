// What passes that take single operators apart have in common: which nodes, and how new ones are made.
#ifndef FRAMEJIT_BACKENDS_NATIVE_NODE_SPLITTER_H_
#define FRAMEJIT_BACKENDS_NATIVE_NODE_SPLITTER_H_

#include <optional>

#include "graph/graph.h"
#include "graph/passes/analysis.h"

namespace framejit::native {

class NodeSplitter {
 public:
  // `target`: the operator's name.
  NodeSplitter(Graph& graph, const char* target);
  virtual ~NodeSplitter() = default;
  // Puts what Split makes in place of each node of the operator that Applies.
  void Run();

 protected:
  // Asked of all nodes before the first is split.
  virtual bool Applies(const Node& node) const = 0;
  virtual void Split(const Node& node) = 0;

  // None, or no tensor.
  static bool IsAbsent(const Operand& operand) {
    return operand.kind == Operand::Kind::kConstant ? operand.constant.isNone() : operand.value == kNoValue;
  }

  // A new value with memory of its own.
  ValueId New(TensorMeta meta);
  // A node with the place of `origin`. The operands given come first; the schema's defaults follow.
  void Add(const char* name, const Node& origin, absl::InlinedVector<Operand, 4> operands, ValueId result);
  // A pointwise operator over two values with dimensions, without other operands of note; its result.
  ValueId Binary(const char* name, const Node& origin, ValueId a, ValueId b);
  // The same for one value and a number.
  ValueId WithNumber(const char* name, const Node& origin, ValueId value, double number);
  // The sum over `dims`, of type `type` and contiguous.
  ValueId Sum(const Node& origin, ValueId value, c10::IntArrayRef dims, bool keepdim, at::ScalarType type);
  // A view of a contiguous value.
  ValueId View(const Node& origin, ValueId value, const c10::DimVector& sizes);
  // `result` becomes the value, in its type and layout.
  void ConvertInto(const Node& origin, ValueId value, ValueId result);
  // A contiguous value of that type, on the device of `like`.
  ValueId NewContiguous(ValueId like, c10::DimVector sizes, at::ScalarType type);

  Graph& graph_;
  std::optional<MemoryFacts> facts_;  // while it runs, where the graph has such a node at all

 private:
  const std::optional<c10::OperatorHandle> target_;
  int32_t next_storage_ = 0;
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_NODE_SPLITTER_H_
