// The textual form of a graph. ParseGraph (graph/parse.h) reads it back; printing what it read gives the same text.
//
//   input %0: float32[8, 64] @0
//   input %1: float32[64, 8] strides=[1, 64] @1
//   constant %2: float64[] @2 wrapped = [2.0]
//   %3: float32[8, 8] @3 = aten::mm(%0, %1)  # at model.py:12 in forward (call 4)
//   %4: float32[8, 8] @4 = aten::mul.Tensor(%3, %2)
//   [%5: float32[4, 8] @4, %6: float32[4, 8] offset=32 @4] = aten::split.Tensor(%4, 4)
//   mutate %0 <- %5
//   return %5, %6
//
// A value's type: dtype[sizes], then strides (where not those of a contiguous tensor), offset, device (where not the
// CPU), requires_grad, conj, neg, and @storage. Operands stand in schema order; one that equals its default is left
// out, and operands after it are named. `none` is an absent tensor. Lines that start with # are comments. The
// modes that a graph has are lines in front: "strict", "reduce_overhead", "autotune", "open_sizes".
#ifndef FRAMEJIT_GRAPH_PRINT_H_
#define FRAMEJIT_GRAPH_PRINT_H_

#include <string>

#include "graph/graph.h"

namespace framejit {

struct PrintOptions {
  // Constants with more elements print as "...", which does not parse.
  int64_t max_constant_elements = INT64_MAX;
  bool locations = true;
};

std::string PrintGraph(const Graph& graph, const PrintOptions& options = {});
// One line, without the newline.
std::string PrintNode(const Graph& graph, const Node& node, const PrintOptions& options = {});
std::string PrintValueType(const TensorMeta& meta);
// "model.py:12 in forward"
std::string PrintLocation(const SourceLocation& location);

// The strides of a contiguous tensor, as torch computes them for a new one.
c10::DimVector ContiguousStrides(c10::ArrayRef<int64_t> sizes);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_PRINT_H_
