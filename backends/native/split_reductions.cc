#include "backends/native/split_reductions.h"

#include <algorithm>
#include <utility>

#include "backends/native/fusion.h"
#include "backends/native/node_splitter.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

using Dims = c10::DimVector;

// The dimensions that the node's second operand names, ascending; none where it names all by naming none.
Dims ReducedDims(const TensorMeta& x, const Node& node) {
  const c10::IValue& given = node.operands[1].constant;
  Dims dims;
  if (!given.isIntList() || x.sizes.empty()) return dims;  // a scalar has no dimension 0, though operators take it
  for (int64_t d : given.toIntVector()) dims.push_back(d < 0 ? d + static_cast<int64_t>(x.sizes.size()) : d);
  std::sort(dims.begin(), dims.end());
  return dims;
}

// Those of `dims` with more than one element, in groups of neighbours that memory has together, the innermost group
// first. None where kernels would not do better than ATen: nothing lies together to begin with.
std::vector<Dims> MemoryRuns(const TensorMeta& x, const Dims& dims) {
  std::vector<Dims> runs;
  if (x.numel() == 0) return runs;
  bool columns = false;
  for (int64_t d = 0; d < static_cast<int64_t>(x.sizes.size()); ++d) {
    if (x.sizes[d] == 1) continue;
    if (!std::binary_search(dims.begin(), dims.end(), d)) {
      columns = columns || (x.strides[d] == 1 && x.sizes[d] >= kFewColumns);
      continue;
    }
    const bool together = !runs.empty() && x.strides[runs.back().back()] == x.strides[d] * x.sizes[d];
    if (!together) runs.emplace_back();
    runs.back().push_back(d);
  }
  std::sort(runs.begin(), runs.end(),
            [&](const Dims& a, const Dims& b) { return x.strides[a.back()] < x.strides[b.back()]; });
  if (!runs.empty() && x.strides[runs[0].back()] != 1 && !columns) runs.clear();
  return runs;
}

int64_t CountOf(const TensorMeta& x, const Dims& dims) {
  int64_t count = 1;
  for (int64_t d : dims) count *= x.sizes[d];
  return count;
}

at::ScalarType Widened(at::ScalarType type) { return c10::isReducedFloatingType(type) ? at::kFloat : type; }

class ReductionSplitter : public NodeSplitter {
 public:
  ReductionSplitter(Graph& graph, const char* name) : NodeSplitter(graph, name) {}

 protected:
  bool LieApart(const Node& node) const {
    const TensorMeta& x = Input(node);
    return !facts_->TouchesWritten(node) && MemoryRuns(x, ReducedDims(x, node)).size() > 1;
  }
  const TensorMeta& Input(const Node& node) const { return graph_.meta(node.operands[0].value); }
  const TensorMeta& Result(const Node& node) const {
    return graph_.meta(node.outputs[0] != kNoValue ? node.outputs[0] : node.outputs.back());
  }
};

// Reductions of reductions: one node for each run, the last of which gives the result.
class StageSplitter : public ReductionSplitter {
 public:
  StageSplitter(Graph& graph, const char* name, bool is_sum) : ReductionSplitter(graph, name), is_sum_(is_sum) {}

 private:
  // What is in between has a type that loses nothing that the result keeps.
  bool Applies(const Node& node) const override {
    const at::ScalarType from = Input(node).dtype, to = Result(node).dtype;
    const bool widens = to == at::kDouble || (to == at::kFloat && from != at::kDouble);
    const bool sums = to == at::kLong ? c10::isIntegralType(from, /*includeBool=*/true)
                                      : c10::isFloatingType(from) && (from == to || widens);
    return (!is_sum_ || sums) && LieApart(node);
  }

  void Split(const Node& node) override {
    std::vector<Dims> runs = MemoryRuns(Input(node), ReducedDims(Input(node), node));
    const ValueId out = node.outputs[0];
    const at::ScalarType type = graph_.meta(out).dtype, between = is_sum_ ? Widened(type) : type;
    Node stage = node;
    for (size_t i = 0; i + 1 < runs.size(); ++i) {
      c10::DimVector sizes = graph_.meta(stage.operands[0].value).sizes;
      for (int64_t d : runs[i]) sizes[static_cast<size_t>(d)] = 1;
      const ValueId next = NewContiguous(out, std::move(sizes), between);
      Reduce(stage, Operand::Constant(c10::List<int64_t>(c10::IntArrayRef(runs[i]))), Operand::Constant(true), next);
      stage.operands[0] = Operand::Value(next);
    }
    // A sum of a narrow type would round what it adds first.
    const ValueId sum = between != type ? NewContiguous(out, graph_.meta(out).sizes, between) : out;
    Reduce(stage, node.operands[1], node.operands[2], sum);
    if (sum != out) ConvertInto(node, sum, out);
  }

  void Reduce(const Node& stage, Operand dims, Operand keepdim, ValueId result) {
    Node node = stage;
    node.operands[1] = std::move(dims);
    node.operands[2] = std::move(keepdim);
    if (is_sum_) node.operands[3] = Operand::Constant(graph_.meta(result).dtype);
    node.outputs = {result};
    graph_.nodes.push_back(std::move(node));
  }

  const bool is_sum_;
};

// Means, and variances around them, become sums, which are split in turn.
class MomentSplitter : public ReductionSplitter {
 public:
  MomentSplitter(Graph& graph, const char* name, bool is_mean) : ReductionSplitter(graph, name), is_mean_(is_mean) {}

 private:
  bool Applies(const Node& node) const override {
    const at::ScalarType type = Input(node).dtype;
    return c10::isFloatingType(type) && Result(node).dtype == type && (is_mean_ || Divisor(node) > 0) && LieApart(node);
  }

  // What the sum of squares is divided by.
  double Divisor(const Node& node) const {
    const c10::IValue& correction = node.operands[2].constant;
    const double count = static_cast<double>(CountOf(Input(node), ReducedDims(Input(node), node)));
    return count - (correction.isNone() ? 1.0 : correction.toScalar().toDouble());
  }

  void Split(const Node& node) override {
    const ValueId x = node.operands[0].value;
    const Dims dims = ReducedDims(graph_.meta(x), node);
    const bool keepdim = node.operands[is_mean_ ? 2 : 3].constant.toBool();
    const auto mean = [&](ValueId of, double count, at::ScalarType type) {
      return WithNumber("aten::div.Scalar", node, Sum(node, of, dims, keepdim, type), count);
    };
    const double count = static_cast<double>(CountOf(graph_.meta(x), dims));
    if (is_mean_) return ConvertInto(node, mean(x, count, Widened(graph_.meta(x).dtype)), node.outputs[0]);
    const ValueId centre = mean(x, count, at::kDouble);
    if (node.outputs.size() > 1 && node.outputs[1] != kNoValue) ConvertInto(node, centre, node.outputs[1]);
    if (node.outputs[0] == kNoValue) return;
    c10::DimVector kept = graph_.meta(x).sizes;
    for (int64_t d : dims) kept[static_cast<size_t>(d)] = 1;
    const ValueId centred = Binary("aten::sub.Tensor", node, x, View(node, centre, kept));
    ValueId result = mean(Binary("aten::mul.Tensor", node, centred, centred), Divisor(node), at::kDouble);
    if (OperatorName(node.op) == "aten::std.correction") {
      const ValueId variance = result;
      result = New(graph_.meta(variance));
      Add("aten::sqrt", node, {Operand::Value(variance)}, result);
    }
    ConvertInto(node, result, node.outputs[0]);
  }

  const bool is_mean_;
};

}  // namespace

void SplitReductions(Graph& graph) {
  MomentSplitter(graph, "aten::mean.dim", /*is_mean=*/true).Run();
  for (const char* name : {"aten::var.correction", "aten::std.correction", "aten::var_mean.correction"}) {
    MomentSplitter(graph, name, /*is_mean=*/false).Run();
  }
  StageSplitter(graph, "aten::sum.dim_IntList", /*is_sum=*/true).Run();
  for (const char* name : {"aten::amax", "aten::amin", "aten::any.dims", "aten::all.dims"}) {
    StageSplitter(graph, name, /*is_sum=*/false).Run();
  }
}

}  // namespace framejit::native
