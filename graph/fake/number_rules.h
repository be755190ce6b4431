// For which open numbers an operator's node computes what eager does.
#ifndef FRAMEJIT_GRAPH_FAKE_NUMBER_RULES_H_
#define FRAMEJIT_GRAPH_FAKE_NUMBER_RULES_H_

#include <memory>

#include "absl/types/span.h"
#include "graph/fake/op_info.h"
#include "graph/fake/open_number.h"
#include "graph/graph.h"

namespace framejit {

bool IsClamp(const OpInfo& info);
// Of a floating type that is not double.
double LargestNumberOf(at::ScalarType dtype);

// Whether the operator is a power that eager computes in a way of its own, for the number that is its exponent, or its
// base. The graph then is one of that number, or of none of those.
bool IsSpecialPower(const OpInfo& info, const c10::IValue& first_argument, OpenNumber& number, bool is_base);

// Demands of a node's numbers what its dtypes and its operator ask of them; where nothing does, they are looked at.
// `in_place_of_number`: one of them is an operand that is no tensor.
void CheckOpenNumbers(const Graph& graph, const OpInfo& info, const Node& node,
                      absl::Span<const std::shared_ptr<OpenNumber>> numbers, bool in_place_of_number);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_NUMBER_RULES_H_
