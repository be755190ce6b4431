// Weights that are constants, in the layouts that are fastest (benchmarks/products.py, benchmarks/convolutions.py):
// products of 5 to 39 rows read a weight along its rows, convolutions one that oneDNN packed for their shape.
//
// oneDNN's packed convolutions compute in channels-last layout. So does then what follows them, as long as nothing
// depends on the layout: what the caller gets, and views that would not exist, are copied back to the recorded one.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/InferenceMode.h>

#include <optional>

#include "absl/container/flat_hash_map.h"
#include "graph/operator_table.h"
#include "graph/passes/analysis.h"
#include "graph/passes/execute.h"
#include "graph/passes/known_values.h"
#include "graph/print.h"

namespace framejit {
namespace {

// With fewer rows dot products are as fast, with more the weight is packed for each call at no cost to speak of.
constexpr int64_t kFewestRows = 5, kMostRows = 39;

c10::DimVector ChannelsLastStrides(c10::IntArrayRef sizes) {
  const std::vector<int64_t> strides = c10::get_channels_last_strides_2d(sizes);
  return c10::DimVector(strides.begin(), strides.end());
}

at::Tensor OnMeta(const TensorMeta& meta) {
  return at::empty_strided(meta.sizes, meta.strides, at::TensorOptions().dtype(meta.dtype).device(at::kMeta));
}

class WeightPacker {
 public:
  WeightPacker(Graph& graph, const FrozenValues& frozen)
      : graph_(graph), facts_(graph), known_(graph, frozen), recorded_(graph.values), changed_(graph.values.size()) {}

  int Run() {
    c10::InferenceMode no_inference(false);
    at::AutoDispatchBelowAutograd no_autograd;
    const Graph before = graph_;
    int packed = 0;
    std::vector<Node> nodes = graph_.nodes;  // known_ reads the graph's
    for (Node& node : nodes) {
      if (PackProduct(node) || PackConvolution(node)) {
        ++packed;
      } else if (!Follow(node)) {
        graph_ = before;
        return 0;
      }
      made_.push_back(std::move(node));
    }
    graph_.nodes = std::move(made_);
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
    return Follow(node);
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
    if (input.numel() == 0 || graph_.meta(out).numel() == 0 || HeldByCaller(out)) return false;
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
    Change(out, ChannelsLastStrides(graph_.meta(out).sizes));
    return true;
  }

  bool HeldByCaller(ValueId id) const { return facts_.Escapes(id) || facts_.FeedsMutation(id); }

  void Change(ValueId id, c10::DimVector strides) {
    TensorMeta& meta = graph_.values[static_cast<size_t>(id)];
    meta.strides = std::move(strides);
    changed_[static_cast<size_t>(id)] = !SameMeta(meta, recorded_[static_cast<size_t>(id)]);
  }

  // A node whose operands may lie otherwise than recorded: its results do as well, or the operands are copied to where
  // they were. False where that cannot be done.
  bool Follow(Node& node) {
    bool reads = false;
    ForEachOperandValue(node, [&](const ValueId& id) { reads = reads || IsChanged(id); });
    if (!reads || (OperatorName(node.op) == "mkldnn::_convolution_pointwise")) return true;
    bool held = false;
    for (ValueId id : node.outputs) held = held || (id != kNoValue && HeldByCaller(id));
    if (!held && Relay(node)) return true;
    bool restored = true;
    ForEachOperandValue(node, [&](ValueId& id) {
      if (IsChanged(id)) restored = Restore(id) && restored;
    });
    return restored;
  }

  bool IsChanged(ValueId id) const { return static_cast<size_t>(id) < changed_.size() && changed_[id]; }

  // Asks the operator how its results lie now. False where it does not work on such operands.
  bool Relay(const Node& node) {
    if (!node.list_lengths.empty() || HasEffect(node)) return false;
    torch::jit::Stack stack;
    try {
      stack = Execute(node, [&](ValueId id) { return OnMeta(graph_.meta(id)); });
    } catch (const std::exception&) {
      return false;
    }
    if (stack.size() != node.outputs.size()) return false;
    for (size_t i = 0; i < stack.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (id == kNoValue) continue;
      if (!stack[i].isTensor()) return false;
      const at::Tensor& result = stack[i].toTensor();
      const TensorMeta& meta = graph_.meta(id);
      // Views of a part of the memory begin at places that depend on the layout.
      const bool same = result.defined() && result.sizes() == c10::IntArrayRef(meta.sizes) &&
                        result.scalar_type() == meta.dtype && result.storage_offset() == 0 && meta.storage_offset == 0;
      if (!same) return false;
    }
    for (size_t i = 0; i < stack.size(); ++i) {
      if (node.outputs[i] == kNoValue) continue;
      const c10::IntArrayRef strides = stack[i].toTensor().strides();
      Change(node.outputs[i], c10::DimVector(strides.begin(), strides.end()));
    }
    return true;
  }

  // `id` becomes a copy of the value in the recorded layout, which has to be contiguous.
  bool Restore(ValueId& id) {
    static const auto clone = FindOperator("aten::clone");
    const TensorMeta& wanted = recorded_[static_cast<size_t>(id)];
    if (!clone || !wanted.is_contiguous() || wanted.storage_offset != 0) return false;
    const auto [copy, fresh] = restored_.try_emplace(id, kNoValue);
    if (fresh) {
      TensorMeta meta = wanted;
      for (const TensorMeta& other : graph_.values) meta.storage = std::max(meta.storage, other.storage);
      ++meta.storage;
      copy->second = graph_.AddValue(std::move(meta));
      Node node{*clone};
      node.operands = {Operand::Value(id), Operand::Constant(static_cast<int64_t>(at::MemoryFormat::Contiguous))};
      node.outputs = {copy->second};
      made_.push_back(std::move(node));
    }
    id = copy->second;
    return true;
  }

  Graph& graph_;
  const MemoryFacts facts_;
  KnownValues known_;
  const std::vector<TensorMeta> recorded_;  // of the values that there were
  std::vector<bool> changed_;               // by value: it lies otherwise than recorded
  std::vector<Node> made_;
  absl::flat_hash_map<ValueId, ValueId> laid_out_;  // weights, and the constants that stand for them
  absl::flat_hash_map<ValueId, ValueId> restored_;  // values, and their copies
};

}  // namespace

int PackWeights(Graph& graph, const FrozenValues& frozen) { return WeightPacker(graph, frozen).Run(); }

}  // namespace framejit
