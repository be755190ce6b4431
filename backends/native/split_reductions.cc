#include "backends/native/split_reductions.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/native/fusion.h"
#include "backends/native/node_splitter.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

enum class Kind : uint8_t { kSum, kMean, kExtreme, kQuantifier, kVariance };

struct Row {
  const char* name;
  Kind kind;
};

constexpr Row kRows[] = {
    {"aten::sum.dim_IntList", Kind::kSum},
    {"aten::mean.dim", Kind::kMean},
    {"aten::amax", Kind::kExtreme},
    {"aten::amin", Kind::kExtreme},
    {"aten::any.dims", Kind::kQuantifier},
    {"aten::all.dims", Kind::kQuantifier},
    {"aten::var.correction", Kind::kVariance},
    {"aten::std.correction", Kind::kVariance},
    {"aten::var_mean.correction", Kind::kVariance},
};

using Dims = std::vector<int64_t>;

class ReductionSplitter : public NodeSplitter {
 public:
  ReductionSplitter(Graph& graph, const Row& row) : NodeSplitter(graph, row.name), row_(row) {}

 private:
  bool Applies(const Node& node) const override {
    return !facts_.TouchesWritten(node) && HasTypes(node) && RunsOf(node).size() > 1;
  }

  // Those for which what is in between has a type that loses nothing that the result keeps.
  bool HasTypes(const Node& node) const {
    const at::ScalarType from = Input(node).dtype, to = graph_.meta(FirstResult(node)).dtype;
    const bool wide = to == at::kFloat || to == at::kDouble;
    switch (row_.kind) {
      case Kind::kSum:
        if (to == at::kLong) return c10::isIntegralType(from, /*includeBool=*/true);
        return c10::isFloatingType(from) && (from == to || wide) && !(from == at::kDouble && to == at::kFloat);
      case Kind::kMean:
        return c10::isFloatingType(from) && from == to;
      case Kind::kVariance:
        return c10::isFloatingType(from) && from == to && Divisor(node) > 0;
      case Kind::kExtreme:
        return true;
      case Kind::kQuantifier:
        return to == at::kBool;
    }
    return false;
  }

  const TensorMeta& Input(const Node& node) const { return graph_.meta(node.operands[0].value); }

  static ValueId FirstResult(const Node& node) {
    return node.outputs[0] != kNoValue ? node.outputs[0] : node.outputs.back();
  }

  // The dimensions of more than one element that are reduced, in groups of neighbours that memory has together, the
  // innermost group first. None where kernels would not do better than ATen: nothing lies together to begin with.
  std::vector<Dims> RunsOf(const Node& node) const {
    const TensorMeta& x = Input(node);
    const int64_t rank = static_cast<int64_t>(x.sizes.size());
    const c10::IValue& given = node.operands[1].constant;
    if (!given.isIntList() || given.toIntVector().empty() || x.numel() == 0) return {};
    std::vector<bool> reduced(static_cast<size_t>(rank));
    for (int64_t d : given.toIntVector()) reduced[static_cast<size_t>(d < 0 ? d + rank : d)] = true;
    std::vector<Dims> runs;
    bool columns = false;
    for (int64_t d = 0; d < rank; ++d) {
      if (x.sizes[d] == 1) continue;
      if (!reduced[static_cast<size_t>(d)]) {
        columns = columns || (x.strides[d] == 1 && x.sizes[d] >= kFewColumns);
        continue;
      }
      const bool together = !runs.empty() && x.strides[runs.back().back()] == x.strides[d] * x.sizes[d];
      if (!together) runs.emplace_back();
      runs.back().push_back(d);
    }
    std::sort(runs.begin(), runs.end(),
              [&](const Dims& a, const Dims& b) { return x.strides[a.back()] < x.strides[b.back()]; });
    if (runs.empty() || (x.strides[runs[0].back()] != 1 && !columns)) return {};
    return runs;
  }

  double Count(const Node& node) const {
    const TensorMeta& x = Input(node);
    double count = 1;
    for (const Dims& run : RunsOf(node)) {
      for (int64_t d : run) count *= static_cast<double>(x.sizes[d]);
    }
    return count;
  }

  // What the sum of squares is divided by.
  double Divisor(const Node& node) const {
    const c10::IValue& correction = node.operands[2].constant;
    return Count(node) - (correction.isNone() ? 1.0 : correction.toScalar().toDouble());
  }

  void Split(const Node& node) override {
    const std::vector<Dims> runs = RunsOf(node);
    const ValueId x = node.operands[0].value, out = FirstResult(node);
    switch (row_.kind) {
      case Kind::kSum:
        return LastSumInto(node, PartialSums(node, x, runs, graph_.meta(out).dtype), out);
      case Kind::kMean: {
        const ValueId sum = Widened(graph_.meta(out));
        LastSumInto(node, PartialSums(node, x, runs, graph_.meta(out).dtype), sum);
        return ConvertInto(node, Divided(node, sum, Count(node)), out);
      }
      case Kind::kExtreme:
      case Kind::kQuantifier: {
        const Operand keeps = Operand::Constant(true);
        ValueId value = x;
        for (size_t i = 0; i + 1 < runs.size(); ++i) {
          const ValueId next = Reduced(value, runs[i], graph_.meta(out).dtype);
          Add(row_.name, node, {Operand::Value(value), List(runs[i]), keeps}, next);
          value = next;
        }
        return Add(row_.name, node, {Operand::Value(value), node.operands[1], node.operands[2]}, out);
      }
      case Kind::kVariance:
        return SplitVariance(node, runs);
    }
  }

  void SplitVariance(const Node& node, const std::vector<Dims>& runs) {
    const ValueId x = node.operands[0].value;
    const ValueId sums = PartialSums(node, x, runs, at::kDouble);
    const ValueId total = Sum(node, sums, runs.back(), at::kDouble);
    const ValueId mean = Divided(node, total, Count(node));
    const ValueId centred = Binary("aten::sub.Tensor", node, x, mean);
    const ValueId squares = Binary("aten::mul.Tensor", node, centred, centred);
    const auto quotient_into = [&](ValueId partial, double divisor, bool is_root, ValueId out) {
      TensorMeta wide = graph_.meta(out);
      wide.dtype = at::kDouble;
      const ValueId sum = New(wide);
      LastSumInto(node, partial, sum);
      ValueId result = Divided(node, sum, divisor);
      if (is_root) {
        const ValueId root = New(wide);
        Add("aten::sqrt", node, {Operand::Value(result)}, root);
        result = root;
      }
      ConvertInto(node, result, out);
    };
    if (node.outputs[0] != kNoValue) {
      const bool is_root = OperatorName(node.op) == "aten::std.correction";
      quotient_into(PartialSums(node, squares, runs, at::kDouble), Divisor(node), is_root, node.outputs[0]);
    }
    if (node.outputs.size() > 1 && node.outputs[1] != kNoValue) {
      quotient_into(sums, Count(node), /*is_root=*/false, node.outputs[1]);
    }
  }

  // The sums over all runs but the last.
  ValueId PartialSums(const Node& node, ValueId value, const std::vector<Dims>& runs, at::ScalarType type) {
    const at::ScalarType between = c10::isReducedFloatingType(type) ? at::kFloat : type;
    for (size_t i = 0; i + 1 < runs.size(); ++i) value = Sum(node, value, runs[i], between);
    return value;
  }

  // Over what is left, with the dimensions that the node keeps. A sum of a narrow type would round what it adds first.
  void LastSumInto(const Node& node, ValueId partial, ValueId out) {
    const ValueId sum = c10::isReducedFloatingType(graph_.meta(out).dtype) ? Widened(graph_.meta(out)) : out;
    const Operand keeps = node.operands[row_.kind == Kind::kVariance ? 3 : 2];
    const Operand type = Operand::Constant(graph_.meta(sum).dtype);
    Add("aten::sum.dim_IntList", node, {Operand::Value(partial), node.operands[1], keeps, type}, sum);
    if (sum != out) ConvertInto(node, sum, out);
  }

  // A new value that looks so, of float32 at least.
  ValueId Widened(TensorMeta meta) {
    if (c10::isReducedFloatingType(meta.dtype)) meta.dtype = at::kFloat;
    return New(std::move(meta));
  }

  ValueId Divided(const Node& node, ValueId value, double divisor) {
    const ValueId result = New(graph_.meta(value));
    Add("aten::div.Scalar", node, {Operand::Value(value), Operand::Constant(divisor)}, result);
    return result;
  }

  ValueId Sum(const Node& node, ValueId value, const Dims& dims, at::ScalarType type) {
    const ValueId sum = Reduced(value, dims, type);
    Add("aten::sum.dim_IntList", node,
        {Operand::Value(value), List(dims), Operand::Constant(true), Operand::Constant(type)}, sum);
    return sum;
  }

  static Operand List(const Dims& dims) { return Operand::Constant(c10::List<int64_t>(c10::IntArrayRef(dims))); }

  // A new contiguous value with one element along `dims`.
  ValueId Reduced(ValueId from, const Dims& dims, at::ScalarType type) {
    TensorMeta meta = graph_.meta(from);
    for (int64_t d : dims) meta.sizes[d] = 1;
    int64_t stride = 1;
    for (size_t d = meta.sizes.size(); d-- > 0;) {
      meta.strides[d] = stride;
      stride *= meta.sizes[d];
    }
    meta.storage_offset = 0;
    meta.dtype = type;
    return New(std::move(meta));
  }

  void ConvertInto(const Node& origin, ValueId value, ValueId result) {
    const Operand type = Operand::Constant(graph_.meta(result).dtype);
    Add("aten::_to_copy", origin, {Operand::Value(value), type}, result);
  }

  const Row& row_;
};

}  // namespace

void SplitReductions(Graph& graph) {
  for (const Row& row : kRows) ReductionSplitter(graph, row).Run();
}

}  // namespace framejit::native
