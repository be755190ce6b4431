// Along which dimensions of a kernel's domain nodes and their operands run; declared in fusion.h.
#include "backends/native/emitter_rules.h"
#include "backends/native/fusion.h"
#include "graph/operator_table.h"

namespace framejit::native {

const c10::DimVector& IterationShape(const GraphFacts& facts, NodeKind kind, const Node& node) {
  ValueId id = kind == NodeKind::kRow ? node.operands[0].value : node.outputs[0];
  return facts.graph.meta(id).sizes;
}

int FirstDim(int align, size_t node_rank, size_t rank) {
  return align == kAlignRight ? static_cast<int>(node_rank) - static_cast<int>(rank) : align;
}

bool IsConcatenation(const Node& node) {
  static const auto concatenation = FindOperator("aten::cat");
  return concatenation && &node.op.schema() == &concatenation->schema();
}

int AlignOf(const Node& node, size_t operand) {
  const EmitRule* rule = FindEmitRule(node.op);
  return rule != nullptr && operand > 0 ? rule->operand_dim : kAlignRight;
}

std::vector<int64_t> DomainStrides(const TensorMeta& value, const DimMap& node_map, int align, size_t domain_rank) {
  std::vector<int64_t> strides(domain_rank, 0);
  int first = FirstDim(align, node_map.size(), value.sizes.size());
  for (size_t i = 0; i < value.sizes.size(); ++i) {
    int64_t position = first + static_cast<int64_t>(i);
    if (value.sizes[i] == 1 || position < 0) continue;
    int8_t dim = node_map[static_cast<size_t>(position)];
    if (dim >= 0) strides[static_cast<size_t>(dim)] = value.strides[i];
  }
  return strides;
}

}  // namespace framejit::native
