// Groups graph nodes into units of execution: fused kernels and single ATen calls, in an order that respects what each
// reads and in which random numbers are drawn as the program draws them. Fused values are described by which dimension
// of the kernel's domain each of their own dimensions is; no loop IR is built here.
#ifndef FRAMEJIT_BACKENDS_NATIVE_FUSION_H_
#define FRAMEJIT_BACKENDS_NATIVE_FUSION_H_

#include <vector>

#include "absl/container/inlined_vector.h"
#include "backends/native/emitter.h"

namespace framejit::native {

// For each dimension of a value or node: the domain dimension it runs along, or one of these.
using DimMap = absl::InlinedVector<int8_t, 6>;
inline constexpr int8_t kSizeOne = -1;
inline constexpr int8_t kBroadcast = -2;  // an expanded dimension of a view

// Few rows that are long are reduced in pieces, so that several threads have work; where their length has no divisor
// for that, they are ATen's.
inline constexpr int64_t kWideRow = 1 << 16;
inline constexpr int64_t kFewRows = 8;
// Fewer columns leave vectors across them mostly empty, and too few of them to hide latencies.
inline constexpr int64_t kFewColumns = 16;

struct Unit {
  bool is_kernel = false;
  std::vector<int32_t> nodes;   // ascending; one for an ATen call
  std::vector<int64_t> domain;  // kernels: sizes, none of them one
  int inner_dims = 0;           // kernels: how many trailing domain dimensions reductions run over; 0: no reduction
  // With a concatenation inside, the kernel runs once for each of its operands, over [cuts[i], cuts[i + 1]) of the
  // dimension along which they are joined; what makes operand i is computed there alone.
  int segment_dim = -1;
  std::vector<int64_t> cuts;
  bool columns = false;  // reductions run along a strided dimension; everything is contiguous along the last row
};

struct FusionResult {
  std::vector<Unit> units;         // in execution order
  std::vector<NodeKind> kinds;     // by node
  std::vector<int32_t> unit_of;    // by node; -1 for views that exist as metadata only
  std::vector<int8_t> segments;    // by node: the one segment of its unit that it belongs to; -1: all
  std::vector<ValueId> sources;    // by ValueId: the value itself, or what it is a (chain of) metadata view of
  std::vector<DimMap> node_maps;   // by node: its iteration shape in the unit's domain
  std::vector<DimMap> value_maps;  // by ValueId: values made in a kernel
};

// `library_only`: nodes that must not be fused (their kernel could not be compiled), by node.
FusionResult Fuse(const GraphFacts& facts, const std::vector<bool>& library_only);

// The shape a fused node iterates over: its output's, or its first operand's where it reduces.
const c10::DimVector& IterationShape(const GraphFacts& facts, NodeKind kind, const Node& node);

// Strides of `value` (as it lies in memory) along the domain's dimensions, read by a node with `node_map`.
std::vector<int64_t> DomainStrides(const TensorMeta& value, const DimMap& node_map, int align, size_t domain_rank);
// Which dimension of the node the first dimension of an operand with `rank` dimensions lies on.
int FirstDim(int align, size_t node_rank, size_t rank);
int AlignOf(const Node& node, size_t operand);
bool IsConcatenation(const Node& node);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_FUSION_H_
