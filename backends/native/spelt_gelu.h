// Gelus by tanh that a program spells out, as the models of GPT-2's kind do.
#ifndef FRAMEJIT_BACKENDS_NATIVE_SPELT_GELU_H_
#define FRAMEJIT_BACKENDS_NATIVE_SPELT_GELU_H_

#include <optional>
#include <vector>

#include "graph/graph.h"

namespace framejit::native {

struct SpeltGelu {
  ValueId x = kNoValue;
  std::vector<int32_t> nodes;  // that compute it, the last one among them; nothing else reads what the others make
  int32_t reads = 0;           // of x, by them
};

// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) of bfloat16 or float16, in any order of factors and summands, with
// x taken out of the inner sum or not, where `node` computes the outermost product. Constants may be off by a
// millionth, which such a number does not show. `producers`, `reads`: by value, its node and how often it is read.
std::optional<SpeltGelu> FindSpeltGelu(const Graph& graph, const std::vector<int32_t>& producers,
                                       const std::vector<int32_t>& reads, int32_t node);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_SPELT_GELU_H_
