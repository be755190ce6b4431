// Weights that are constants, in the layouts that are fastest (benchmarks/products.py, benchmarks/convolutions.py):
// products of 5 to 39 rows read a weight along its rows, convolutions one that oneDNN packed for their shape.
//
// oneDNN's packed convolutions compute in channels-last layout. So does then what follows them, as long as nothing
// depends on the layout: what the caller gets, and views that would not exist, are copied back to the recorded one.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/InferenceMode.h>

#include "absl/container/flat_hash_map.h"
#include "graph/passes/known_values.h"
#include "graph/passes/operator_table.h"
#include "graph/passes/relayout.h"
#include "graph/print.h"

namespace framejit {
namespace {

// With fewer rows dot products are as fast, with more the weight is packed for each call at no cost to speak of.
constexpr int64_t kFewestRows = 5, kMostRows = 39;

class WeightPacker {
 public:
  WeightPacker(Graph& graph, const FrozenValues& frozen) : graph_(graph), known_(graph, frozen), layout_(graph) {}

  int Run() {
    c10::InferenceMode no_inference(false);
    at::AutoDispatchBelowAutograd no_autograd;
    const Graph before = graph_;
    int packed = 0;
    std::vector<Node> nodes = graph_.nodes;  // known_ reads the graph's
    for (Node& node : nodes) {
      if (PackProduct(node) || PackConvolution(node)) {
        ++packed;
      } else if (!layout_.Follow(node)) {
        graph_ = before;
        return 0;
      }
      layout_.Keep(std::move(node));
    }
    graph_.nodes = layout_.Take();
    return packed;
  }

 private:
  bool PackProduct(Node& node) {
    const std::string name = OperatorName(node.op);
    if (name != "aten::mm" && name != "aten::addmm") return false;
    Operand& operand = node.operands[name == "aten::mm" ? 1 : 2];
    const TensorMeta& meta = graph_.meta(operand.value);
    const int64_t rows = graph_.meta(node.outputs[0]).sizes[0];
    const bool transposed = meta.strides[0] == 1 && meta.strides[1] > 1;
    if (!transposed || rows < kFewestRows || rows > kMostRows || meta.dtype != at::kFloat || !meta.device.is_cpu())
      return false;
    const at::Tensor weight = known_.Find(operand.value);
    if (!weight.defined()) return false;
    const auto [packed, fresh] = laid_out_.try_emplace(operand.value, kNoValue);
    if (fresh) packed->second = AddConstant(graph_, weight.contiguous());
    operand = Operand::Value(packed->second);
    return layout_.Follow(node);
  }

  bool PackConvolution(Node& node) {
    if (OperatorName(node.op) != "aten::convolution" || node.operands[6].constant.toBool()) return false;
    static const auto pointwise = FindOperator("mkldnn::_convolution_pointwise");
    static const auto reorder = FindOperator("mkldnn::_reorder_convolution_weight");
    const TensorMeta &input = graph_.meta(node.operands[0].value), &kernel = graph_.meta(node.operands[1].value);
    const ValueId bias = node.operands[2].value, out = node.outputs[0];
    const auto fits = [](const TensorMeta& meta) { return meta.dtype == at::kFloat && meta.device.is_cpu(); };
    if (!pointwise || !reorder || !at::globalContext().userEnabledMkldnn()) return false;
    if (input.sizes.size() != 4 || !fits(input) || !fits(kernel) || (bias != kNoValue && !fits(graph_.meta(bias))))
      return false;
    if (input.numel() == 0 || graph_.meta(out).numel() == 0 || layout_.IsHeld(out)) return false;
    const at::Tensor weight = known_.Find(node.operands[1].value);
    if (!weight.defined()) return false;
    // convolution: stride, padding, dilation, transposed, output_padding, groups
    const c10::IValue stride = node.operands[3].constant, padding = node.operands[4].constant;
    const c10::IValue dilation = node.operands[5].constant, groups = node.operands[8].constant;
    const std::vector<int64_t> sizes(input.sizes.begin(), input.sizes.end());
    torch::jit::Stack stack{weight, padding, stride, dilation, groups, sizes};
    at::Tensor packed;
    try {
      reorder->callBoxed(stack);
      packed = stack.at(0).toTensor();
    } catch (const std::exception&) {
      return false;  // oneDNN has no such convolution
    }
    Node conv{*pointwise};
    conv.operands = {node.operands[0],
                     Operand::Value(AddConstant(graph_, packed)),
                     node.operands[2],
                     Operand::Constant(padding),
                     Operand::Constant(stride),
                     Operand::Constant(dilation),
                     Operand::Constant(groups),
                     Operand::Constant(std::string("none")),
                     Operand::Constant(c10::List<std::optional<at::Scalar>>()),
                     Operand::Constant(std::string())};
    conv.outputs = {out};
    conv.location = node.location;
    conv.torch_call = node.torch_call;
    node = std::move(conv);
    layout_.Change(out, ChannelsLastStrides(graph_.meta(out).sizes));
    return true;
  }

  Graph& graph_;
  KnownValues known_;
  Relayout layout_;
  absl::flat_hash_map<ValueId, ValueId> laid_out_;  // weights, and the constants that stand for them
};

}  // namespace

int PackWeights(Graph& graph, const FrozenValues& frozen) { return WeightPacker(graph, frozen).Run(); }

}  // namespace framejit
