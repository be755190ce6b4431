#include "backends/native/convolution_layouts.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/ConvUtils.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "graph/operator_table.h"
#include "graph/passes/relayout.h"
#include "graph/print.h"

namespace framejit::native {
namespace {

// With fewer results for each channel the weight's way into the cache takes most of the time, and oneDNN's kernels for
// channels-last reorder more of it (benchmarks/convolutions.py).
constexpr int64_t kFewestPositions = 300;

bool IsConvolution(const Node& node) {
  return node.op.schema().name() == "aten::convolution" && node.op.schema().overload_name().empty();
}

// A tensor that looks like the value and is never touched.
at::Tensor Untouched(const TensorMeta& meta, c10::IntArrayRef strides) {
  return at::empty_strided(meta.sizes, strides, at::TensorOptions().dtype(meta.dtype));
}

class ConvolutionPass {
 public:
  explicit ConvolutionPass(Graph& graph) : graph_(graph), layout_(graph) {}

  // False where the graph has to stay as it was.
  bool Run() {
    std::vector<Node> nodes = std::move(graph_.nodes);
    for (Node& node : nodes) {
      const bool convolves = IsConvolution(node) && !node.operands[6].constant.toBool();
      if (!(convolves ? LayOut(node) : layout_.Follow(node))) return false;
      layout_.Keep(std::move(node));
    }
    graph_.nodes = layout_.Take();
    return true;
  }

 private:
  bool LayOut(Node& node) {
    const ValueId out = node.outputs[0];
    Operand& input = node.operands[0];
    const c10::DimVector& kernel = graph_.meta(node.operands[1].value).sizes;
    const bool is_product = kernel.size() == 4 && kernel[2] * kernel[3] == 1;
    if (is_product && node.operands[8].constant.toInt() == 1) return layout_.Follow(node);  // as fast in either layout
    const bool possible = !layout_.IsHeld(out) && IsImage(input.value) && IsImage(node.operands[1].value);
    if (!possible || !IsWorthwhile(node) || !IsOneDnns(node)) return layout_.Restore(node);
    if (!IsChannelsLast(input.value)) input.value = layout_.Copy(input.value, at::MemoryFormat::ChannelsLast);
    CallOneDnn(node);
    layout_.Change(out, ChannelsLastStrides(graph_.meta(out).sizes));
    return true;
  }

  // ATen's convolution copies the weight into the image's layout first, which oneDNN does not need.
  void CallOneDnn(Node& node) const {
    static const std::optional<c10::OperatorHandle> direct = FindOperator("aten::mkldnn_convolution");
    const auto is_contiguous = [&](ValueId id) { return id == kNoValue || graph_.meta(id).is_contiguous(); };
    if (!direct || !is_contiguous(node.operands[1].value) || !is_contiguous(node.operands[2].value)) return;
    node.op = *direct;
    // input, weight and bias; padding, stride, dilation; groups
    node.operands = {node.operands[0], node.operands[1], node.operands[2], node.operands[4],
                     node.operands[3], node.operands[5], node.operands[8]};
  }

  bool IsImage(ValueId id) const {
    const TensorMeta& meta = graph_.meta(id);
    return meta.sizes.size() == 4 && meta.dtype == at::kFloat && meta.device.is_cpu() && meta.numel() > 0;
  }

  bool IsChannelsLast(ValueId id) const {
    const TensorMeta& meta = graph_.meta(id);
    return meta.strides == ChannelsLastStrides(meta.sizes);
  }

  bool IsWorthwhile(const Node& node) const {
    const c10::DimVector& result = graph_.meta(node.outputs[0]).sizes;
    return node.operands[8].constant.toInt() > 1 || result[0] * result[2] * result[3] >= kFewestPositions;
  }

  // ATen would run oneDNN, whose results lie as its inputs do.
  bool IsOneDnns(const Node& node) const {
    const TensorMeta &input = graph_.meta(node.operands[0].value), &weight = graph_.meta(node.operands[1].value);
    const at::Tensor image = Untouched(input, ChannelsLastStrides(input.sizes));
    const auto numbers = [&](size_t i) { return node.operands[i].constant.toIntVector(); };
    std::optional<at::Tensor> bias;
    if (const ValueId id = node.operands[2].value; id != kNoValue) {
      bias = Untouched(graph_.meta(id), graph_.meta(id).strides);
    }
    const std::vector<int64_t> stride = numbers(3), padding = numbers(4), dilation = numbers(5), extra = numbers(7);
    return at::native::select_conv_backend(image, Untouched(weight, weight.strides), bias,
                                           c10::fromIntArrayRefSlow(stride), c10::fromIntArrayRefSlow(padding),
                                           c10::fromIntArrayRefSlow(dilation), /*transposed=*/false,
                                           c10::fromIntArrayRefSlow(extra), node.operands[8].constant.toInt(),
                                           /*bias_sizes_opt=*/std::nullopt) == at::native::ConvBackend::Mkldnn;
  }

  Graph& graph_;
  Relayout layout_;
};

}  // namespace

void LayOutConvolutions(Graph& graph) {
  if (std::none_of(graph.nodes.begin(), graph.nodes.end(), IsConvolution)) return;
  c10::InferenceMode no_inference(false);
  at::AutoDispatchBelowAutograd no_autograd;
  Graph laid_out = graph;
  if (ConvolutionPass(laid_out).Run()) graph = std::move(laid_out);
}

}  // namespace framejit::native
