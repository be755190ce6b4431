#include "backends/native/norm_gradients.h"

#include "backends/native/node_splitter.h"
#include "graph/constant.h"

namespace framejit::native {
namespace {

// Operands of native_layer_norm_backward.
enum Position { kGradient, kInput, kShape, kMean, kRstd, kWeight, kBias, kMask };

class NormSplitter : public NodeSplitter {
 public:
  explicit NormSplitter(Graph& graph) : NodeSplitter(graph, "aten::native_layer_norm_backward") {}

 private:
  // One type throughout, dense, and a batch to add over.
  bool Applies(const Node& node) const override {
    if (facts_->TouchesWritten(node) || (node.outputs[1] == kNoValue && node.outputs[2] == kNoValue)) return false;
    const TensorMeta& gradient = graph_.meta(node.operands[kGradient].value);
    if (gradient.dtype != at::kFloat && gradient.dtype != at::kDouble) return false;
    if (BatchDims(node) == 0 || gradient.numel() == 0) return false;
    for (Position operand : {kGradient, kInput, kMean, kRstd}) {
      const TensorMeta& meta = graph_.meta(node.operands[operand].value);
      if (meta.dtype != gradient.dtype || !meta.is_contiguous()) return false;
    }
    for (size_t i : {1, 2}) {
      if (node.outputs[i] == kNoValue) continue;
      const TensorMeta& meta = graph_.meta(node.outputs[i]);
      if (meta.dtype != gradient.dtype || !meta.is_contiguous()) return false;
    }
    return true;
  }

  int64_t BatchDims(const Node& node) const {
    return static_cast<int64_t>(graph_.meta(node.operands[kGradient].value).sizes.size() -
                                node.operands[kShape].constant.toIntVector().size());
  }

  void Split(const Node& norm) override {
    const ValueId gradient = norm.operands[kGradient].value;
    if (norm.outputs[0] != kNoValue) {
      Node rest = norm;
      rest.outputs[1] = rest.outputs[2] = kNoValue;
      rest.operands[kMask] = Operand::Constant(c10::List<bool>({true, false, false}));
      graph_.nodes.push_back(std::move(rest));
    }
    if (norm.outputs[1] != kNoValue) {
      const ValueId centred = Binary("aten::sub.Tensor", norm, norm.operands[kInput].value, norm.operands[kMean].value);
      const ValueId normal = Binary("aten::mul.Tensor", norm, centred, norm.operands[kRstd].value);
      SumOverBatch(norm, Binary("aten::mul.Tensor", norm, normal, gradient), norm.outputs[1]);
    }
    if (norm.outputs[2] != kNoValue) SumOverBatch(norm, gradient, norm.outputs[2]);
  }

  void SumOverBatch(const Node& norm, ValueId value, ValueId result) {
    c10::List<int64_t> dims;
    for (int64_t d = 0; d < BatchDims(norm); ++d) dims.push_back(d);
    Add("aten::sum.dim_IntList", norm, {Operand::Value(value), Operand::Constant(dims)}, result);
  }
};

}  // namespace

void SplitNormGradients(Graph& graph) { NormSplitter(graph).Run(); }

}  // namespace framejit::native
