#include "backends/native/channel_norms.h"

#include <algorithm>

#include "backends/native/node_splitter.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

class ChannelNormPass : public NodeSplitter {
 public:
  ChannelNormPass(Graph& graph, const char* name) : NodeSplitter(graph, name) {}

 protected:
  // The values among the operands are all of one type that is computed with as it is, and there is more than one
  // element per channel.
  bool IsPlain(const Node& node, size_t input) const {
    if (facts_->TouchesWritten(node)) return false;
    const TensorMeta& x = graph_.meta(node.operands[input].value);
    if ((x.dtype != at::kFloat && x.dtype != at::kDouble) || !x.device.is_cpu() || x.sizes.size() < 2) return false;
    bool plain = x.numel() > x.sizes[1];
    ForEachOperandValue(node, [&](const ValueId& id) { plain = plain && graph_.meta(id).dtype == x.dtype; });
    for (ValueId id : node.outputs) plain = plain && (id == kNoValue || graph_.meta(id).dtype == x.dtype);
    return plain;
  }

  // All but the channels.
  c10::DimVector BatchDims(ValueId x) const {
    c10::DimVector dims;
    for (int64_t d = 0; d < static_cast<int64_t>(graph_.meta(x).sizes.size()); ++d) {
      if (d != 1) dims.push_back(d);
    }
    return dims;
  }

  double CountOf(ValueId x) const {
    return static_cast<double>(graph_.meta(x).numel()) / static_cast<double>(graph_.meta(x).sizes[1]);
  }

  // A value for each channel, so that it broadcasts over x.
  ValueId PerChannel(const Node& origin, ValueId value, ValueId x) {
    c10::DimVector sizes = graph_.meta(x).sizes;
    sizes.erase(sizes.begin());
    std::fill(sizes.begin() + 1, sizes.end(), 1);
    return View(origin, value, sizes);
  }

  ValueId SumOverBatch(const Node& origin, ValueId value) {
    return Sum(origin, value, BatchDims(value), /*keepdim=*/false, at::kDouble);
  }

  ValueId Converted(const Node& origin, ValueId value, at::ScalarType type) {
    const ValueId result = NewContiguous(value, graph_.meta(value).sizes, type);
    ConvertInto(origin, value, result);
    return result;
  }
};

// (input, weight?, bias?, running_mean?, running_var?, training, momentum, eps) -> (output, mean, 1 / sqrt(var + eps)),
// and where it is functional running_mean and running_var as well.
class BatchNormSplitter : public ChannelNormPass {
 public:
  BatchNormSplitter(Graph& graph, const char* name, bool is_functional)
      : ChannelNormPass(graph, name), is_functional_(is_functional) {}

 private:
  bool Applies(const Node& node) const override {
    const bool writes = !is_functional_ && !(IsAbsent(node.operands[3]) && IsAbsent(node.operands[4]));
    return !writes && IsPlain(node, 0) && node.operands[5].constant.toBool() && node.outputs[0] != kNoValue;
  }

  void Split(const Node& node) override {
    const ValueId x = node.operands[0].value;
    const double count = CountOf(x), momentum = node.operands[6].constant.toScalar().toDouble(),
                 epsilon = node.operands[7].constant.toScalar().toDouble();
    const ValueId mean = WithNumber("aten::div.Scalar", node, SumOverBatch(node, x), count);
    const ValueId centred = Binary("aten::sub.Tensor", node, x, PerChannel(node, mean, x));
    const ValueId squares = SumOverBatch(node, Binary("aten::mul.Tensor", node, centred, centred));
    const ValueId variance = WithNumber("aten::div.Scalar", node, squares, count);
    const ValueId shifted = WithNumber("aten::add.Scalar", node, variance, epsilon), rstd = New(graph_.meta(shifted));
    Add("aten::rsqrt", node, {Operand::Value(shifted)}, rstd);
    const auto keep = [&](ValueId value, size_t output) {
      if (node.outputs[output] != kNoValue) ConvertInto(node, value, node.outputs[output]);
    };
    keep(mean, 1);
    keep(rstd, 2);
    if (is_functional_) {
      const ValueId unbiased = WithNumber("aten::div.Scalar", node, squares, count - 1);
      keep(Blend(node, node.operands[3].value, mean, momentum), 3);
      keep(Blend(node, node.operands[4].value, unbiased, momentum), 4);
    }
    // x scale + offset in double precision: where the mean is far from zero, both are large and nearly cancel.
    ValueId scale = rstd;
    if (!IsAbsent(node.operands[1])) scale = Binary("aten::mul.Tensor", node, rstd, node.operands[1].value);
    const ValueId product = Binary("aten::mul.Tensor", node, mean, scale);
    ValueId offset;
    if (IsAbsent(node.operands[2])) {
      offset = New(graph_.meta(product));
      Add("aten::neg", node, {Operand::Value(product)}, offset);
    } else {
      offset = Binary("aten::sub.Tensor", node, node.operands[2].value, product);
    }
    const ValueId scaled = Binary("aten::mul.Tensor", node, x, PerChannel(node, scale, x));
    ConvertInto(node, Binary("aten::add.Tensor", node, scaled, PerChannel(node, offset, x)), node.outputs[0]);
  }

  // (1 - momentum) running + momentum value, in double precision.
  ValueId Blend(const Node& node, ValueId running, ValueId value, double momentum) {
    const ValueId wide = Converted(node, running, at::kDouble);
    return Binary("aten::add.Tensor", node, WithNumber("aten::mul.Scalar", node, value, momentum),
                  WithNumber("aten::mul.Scalar", node, wide, 1 - momentum));
  }

  const bool is_functional_;
};

// native_batch_norm_backward(gradient, input, weight?, running_mean?, running_var?, mean, rstd, train, eps, mask)
class GradientSplitter : public ChannelNormPass {
 public:
  explicit GradientSplitter(Graph& graph) : ChannelNormPass(graph, "aten::native_batch_norm_backward") {}

 private:
  bool Applies(const Node& node) const override {
    return IsPlain(node, 1) && node.operands[7].constant.toBool() && !IsAbsent(node.operands[5]) &&
           !IsAbsent(node.operands[6]);
  }

  void Split(const Node& node) override {
    const ValueId gradient = node.operands[0].value, x = node.operands[1].value;
    const at::ScalarType type = graph_.meta(x).dtype;
    const double count = CountOf(x);
    const ValueId mean = Converted(node, node.operands[5].value, at::kDouble),
                  rstd = Converted(node, node.operands[6].value, at::kDouble);
    const auto centred = [&] { return Binary("aten::sub.Tensor", node, x, PerChannel(node, mean, x)); };
    const ValueId sum = SumOverBatch(node, gradient);
    const ValueId dot = SumOverBatch(node, Binary("aten::mul.Tensor", node, centred(), gradient));
    const ValueId along = Binary("aten::mul.Tensor", node, dot, rstd);
    if (node.outputs[1] != kNoValue) ConvertInto(node, along, node.outputs[1]);
    if (node.outputs[2] != kNoValue) ConvertInto(node, sum, node.outputs[2]);
    if (node.outputs[0] == kNoValue) return;
    // (gradient - mean of the gradient - (x - mean) rstd^2 dot / count) rstd weight
    const ValueId slope = Converted(
        node, WithNumber("aten::div.Scalar", node, Binary("aten::mul.Tensor", node, along, rstd), count), type);
    const ValueId average = Converted(node, WithNumber("aten::div.Scalar", node, sum, count), type);
    ValueId scale = node.operands[6].value;
    if (!IsAbsent(node.operands[2])) scale = Binary("aten::mul.Tensor", node, scale, node.operands[2].value);
    const ValueId distance = Binary("aten::sub.Tensor", node, x, PerChannel(node, node.operands[5].value, x));
    const ValueId projected = Binary("aten::mul.Tensor", node, distance, PerChannel(node, slope, x));
    const ValueId rest = Binary("aten::sub.Tensor", node, gradient, PerChannel(node, average, x));
    const ValueId inner = Binary("aten::sub.Tensor", node, rest, projected);
    Add("aten::mul.Tensor", node, {Operand::Value(inner), Operand::Value(PerChannel(node, scale, x))}, node.outputs[0]);
  }
};

// native_group_norm(input, weight?, bias?, N, C, elements per channel, groups, eps) -> (output, mean, rstd)
class GroupNormSplitter : public ChannelNormPass {
 public:
  explicit GroupNormSplitter(Graph& graph) : ChannelNormPass(graph, "aten::native_group_norm") {}

 private:
  bool Applies(const Node& node) const override {
    if (!IsPlain(node, 0) || IsAbsent(node.operands[1]) || IsAbsent(node.operands[2])) return false;
    if (node.outputs[0] == kNoValue || !graph_.meta(node.operands[0].value).is_contiguous()) return false;
    return graph_.meta(node.operands[1].value).is_contiguous() && graph_.meta(node.operands[2].value).is_contiguous();
  }

  void Split(const Node& node) override {
    const ValueId x = node.operands[0].value;
    const auto integer = [&](size_t i) { return node.operands[i].constant.toInt(); };
    const int64_t batch = integer(3), channels = integer(4), groups = integer(6), each = channels / groups;
    const at::ScalarType type = graph_.meta(x).dtype;
    const ValueId rows = View(node, x, {batch, groups, each * integer(5)});
    const ValueId variance = NewContiguous(x, {batch, groups}, type);
    const ValueId mean = node.outputs[1] != kNoValue ? node.outputs[1] : NewContiguous(x, {batch, groups}, type);
    Add("aten::var_mean.correction", node,
        {Operand::Value(rows), Operand::Constant(c10::List<int64_t>({2})), Operand::Constant(int64_t{0})}, variance);
    graph_.nodes.back().outputs.push_back(mean);
    const ValueId shifted =
        WithNumber("aten::add.Scalar", node, variance, node.operands[7].constant.toScalar().toDouble());
    const ValueId rstd = node.outputs[2] != kNoValue ? node.outputs[2] : New(graph_.meta(shifted));
    Add("aten::rsqrt", node, {Operand::Value(shifted)}, rstd);
    // x scale + offset, in eager's order of roundings.
    const auto by_group = [&](ValueId value) { return View(node, value, {batch, groups, 1}); };
    const auto by_channel = [&](ValueId value) { return View(node, value, {1, groups, each}); };
    const ValueId scale = Binary("aten::mul.Tensor", node, by_group(rstd), by_channel(node.operands[1].value));
    const ValueId centre = Binary("aten::mul.Tensor", node, by_group(mean), scale);
    const ValueId offset = Binary("aten::sub.Tensor", node, by_channel(node.operands[2].value), centre);
    c10::DimVector sizes = graph_.meta(x).sizes;
    std::fill(sizes.begin() + 2, sizes.end(), 1);
    const ValueId scaled = Binary("aten::mul.Tensor", node, x, View(node, scale, sizes));
    Add("aten::add.Tensor", node, {Operand::Value(scaled), Operand::Value(View(node, offset, sizes))}, node.outputs[0]);
  }
};

}  // namespace

void SplitChannelNorms(Graph& graph) {
  BatchNormSplitter(graph, "aten::_native_batch_norm_legit_functional", /*is_functional=*/true).Run();
  BatchNormSplitter(graph, "aten::native_batch_norm", /*is_functional=*/false).Run();
  GradientSplitter(graph).Run();
  GroupNormSplitter(graph).Run();
}

}  // namespace framejit::native
