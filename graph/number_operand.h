// Operands that are values in the place of numbers: open numbers (TensorMeta::is_number).
#ifndef FRAMEJIT_GRAPH_NUMBER_OPERAND_H_
#define FRAMEJIT_GRAPH_NUMBER_OPERAND_H_

#include <ATen/core/function_schema.h>

#include "graph/graph.h"

namespace framejit {

inline bool IsNumberOperand(const Node& node, size_t operand) {
  return node.operands[operand].kind == Operand::Kind::kValue && node.operands[operand].value != kNoValue &&
         node.op.schema().arguments()[operand].type()->kind() == c10::TypeKind::NumberType;
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_NUMBER_OPERAND_H_
