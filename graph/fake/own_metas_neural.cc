// Metadata of neural network operators: embedding, normalisations, convolution, attention, adaptive pooling.
#include <ATen/AccumulateType.h>
#include <ATen/native/ConvUtils.h>

#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

at::MemoryFormat SuggestedFormat(const at::Tensor& tensor) { return tensor.suggest_memory_format(); }

// embedding(weight, indices, padding_idx, scale_grad_by_freq, sparse)
void Embedding(MetaCall& call) {
  const at::Tensor &weight = call.tensor(0), &indices = call.tensor(1);
  TORCH_CHECK(weight.dim() == 2, "'weight' must be 2-D");
  TORCH_CHECK(
      indices.scalar_type() == at::kLong || indices.scalar_type() == at::kInt,
      "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got ",
      indices.scalar_type(), " instead");
  c10::DimVector sizes(indices.sizes());
  sizes.push_back(weight.size(1));
  call.Return(NewContiguous(sizes, weight.scalar_type()));
}

// embedding_dense_backward(grad_output, indices, num_weights, padding_idx, scale_grad_by_freq)
void EmbeddingDenseBackward(MetaCall& call) {
  const at::Tensor& grad = call.tensor(0);
  call.Return(NewContiguous({call.integer(2), grad.size(-1)}, grad.scalar_type()));
}

// Statistics are kept in the parameters' type: float where a low-precision input has float parameters.
at::ScalarType StatisticsDtype(const at::Tensor& input, const MetaCall& call, size_t weight) {
  return call.has(weight) ? call.tensor(weight).scalar_type() : input.scalar_type();
}

// Layer and batch norms on a GPU keep what they add up in.
at::ScalarType SumsDtype(const at::Tensor& input, const MetaCall& call, size_t weight) {
  if (call.on_gpu()) return at::toAccumulateType(input.scalar_type(), /*is_cuda=*/true);
  return StatisticsDtype(input, call, weight);
}

// native_layer_norm(input, normalized_shape, weight, bias, eps) -> (output, mean, rstd)
void LayerNorm(MetaCall& call) {
  const at::Tensor& input = call.tensor(0);
  const c10::DimVector shape = call.integers(1);
  const size_t outer = static_cast<size_t>(input.dim()) - shape.size();
  TORCH_CHECK(static_cast<size_t>(input.dim()) >= shape.size() && !shape.empty() &&
                  input.sizes().slice(outer) == at::IntArrayRef(shape),
              "Given normalized_shape=", at::IntArrayRef(shape),
              ", expected input with shape [*, ...], but got input of size", input.sizes());
  for (size_t parameter : {size_t{2}, size_t{3}}) {
    TORCH_CHECK(!call.has(parameter) || call.tensor(parameter).sizes() == at::IntArrayRef(shape),
                "Expected weight and bias to be of same shape as normalized_shape");
  }
  c10::DimVector statistics(input.sizes());
  for (size_t i = outer; i < statistics.size(); ++i) statistics[i] = 1;
  const at::ScalarType dtype = SumsDtype(input, call, 2);
  at::Tensor output = NewContiguous(input.sizes(), input.scalar_type());
  call.Return(std::move(output), NewContiguous(statistics, dtype), NewContiguous(statistics, dtype));
}

// native_layer_norm_backward(grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask)
void LayerNormBackward(MetaCall& call) {
  const at::Tensor& input = call.tensor(1);
  const auto mask = call[7].toBoolList();
  at::Tensor grad_input, grad_weight, grad_bias;
  if (mask[0]) grad_input = NewContiguous(input.sizes(), input.scalar_type());
  if (mask[1] && call.has(5)) grad_weight = NewContiguous(call.tensor(5).sizes(), call.tensor(5).scalar_type());
  if (mask[2] && call.has(6)) grad_bias = NewContiguous(call.tensor(6).sizes(), call.tensor(6).scalar_type());
  call.Return(std::move(grad_input), std::move(grad_weight), std::move(grad_bias));
}

// native_group_norm(input, weight, bias, N, C, HxW, group, eps) -> (output, mean, rstd)
void GroupNorm(MetaCall& call) {
  const at::Tensor& input = call.tensor(0);
  const int64_t batch = call.integer(3), group = call.integer(6);
  const at::ScalarType dtype = StatisticsDtype(input, call, 1);
  at::Tensor output = NewIn(input.sizes(), input.scalar_type(), SuggestedFormat(input));
  call.Return(std::move(output), NewContiguous({batch, group}, dtype), NewContiguous({batch, group}, dtype));
}

struct BatchNormTypes {
  at::Tensor output;
  at::ScalarType statistics;
};

// The output of a batch norm, and the dtype of its saved statistics.
BatchNormTypes BatchNormOutput(const MetaCall& call) {
  const at::Tensor& input = call.tensor(0);
  TORCH_CHECK(input.dim() >= 2, "batch_norm: expected an input of two dimensions or more, got ", input.sizes());
  at::Tensor output =
      call.on_gpu() ? NewLike(input) : NewIn(input.sizes(), input.scalar_type(), SuggestedFormat(input));
  return {std::move(output), SumsDtype(input, call, 1)};
}

// native_batch_norm and _native_batch_norm_legit(input, weight, bias, running_mean, running_var, training, ...)
void BatchNorm(MetaCall& call) {
  const int64_t saved = call[5].toBool() ? call.tensor(0).size(1) : 0;
  BatchNormTypes types = BatchNormOutput(call);
  call.Return(std::move(types.output), NewContiguous({saved}, types.statistics),
              NewContiguous({saved}, types.statistics));
}

// _native_batch_norm_legit.no_stats(input, weight, bias, training, ...)
void BatchNormNoStatistics(MetaCall& call) {
  const int64_t saved = call[3].toBool() ? call.tensor(0).size(1) : 0;
  BatchNormTypes types = BatchNormOutput(call);
  call.Return(std::move(types.output), NewContiguous({saved}, types.statistics),
              NewContiguous({saved}, types.statistics));
}

// _native_batch_norm_legit_no_training(input, weight, bias, running_mean, running_var, momentum, eps)
void BatchNormInference(MetaCall& call) {
  BatchNormTypes types = BatchNormOutput(call);
  call.Return(std::move(types.output), NewContiguous({0}, types.statistics), NewContiguous({0}, types.statistics));
}

// _native_batch_norm_legit_functional: also returns the updated running statistics.
void BatchNormFunctional(MetaCall& call) {
  const int64_t saved = call[5].toBool() ? call.tensor(0).size(1) : 0;
  BatchNormTypes types = BatchNormOutput(call);
  at::Tensor mean = NewLike(call.tensor(3)), var = NewLike(call.tensor(4));
  call.Return(std::move(types.output), NewContiguous({saved}, types.statistics),
              NewContiguous({saved}, types.statistics), std::move(mean), std::move(var));
}

// native_batch_norm_backward(grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train, eps,
// output_mask)
void BatchNormBackward(MetaCall& call) {
  const at::Tensor& input = call.tensor(1);
  const auto mask = call[9].toBoolList();
  const at::ScalarType dtype = call.has(2) ? call.tensor(2).scalar_type() : input.scalar_type();
  at::Tensor grad_input, grad_weight, grad_bias;
  if (mask[0]) grad_input = NewIn(input.sizes(), input.scalar_type(), SuggestedFormat(input));
  if (mask[1]) grad_weight = NewContiguous({input.size(1)}, dtype);
  if (mask[2]) grad_bias = NewContiguous({input.size(1)}, dtype);
  call.Return(std::move(grad_input), std::move(grad_weight), std::move(grad_bias));
}

c10::DimVector Broadcast(c10::DimVector values, size_t rank) {
  if (values.size() == 1) values.resize(rank, values[0]);
  return values;
}

at::MemoryFormat ConvolutionFormat(const MetaCall& call, const at::Tensor& input, const at::Tensor& weight) {
  at::MemoryFormat format = at::MemoryFormat::Contiguous;
  if (call.on_gpu() && input.scalar_type() == at::kDouble) return format;
  for (const at::Tensor* tensor : {&input, &weight}) {
    if (weight.dim() >= 4 && SuggestedFormat(*tensor) != at::MemoryFormat::Contiguous) {
      format = SuggestedFormat(*tensor);
    }
  }
  return format;
}

// In one dimension, kernels see the input made contiguous, and both with another dimension of one element.
bool IsLengthLast(const at::Tensor& weight) {
  if (weight.dim() != 3) return true;
  const at::IntArrayRef sizes = weight.sizes(), strides = weight.strides();
  const int64_t sizes4[] = {sizes[0], sizes[1], 1, sizes[2]};
  const int64_t strides4[] = {strides[0], strides[1], sizes[2] * strides[2], strides[2]};
  return !c10::is_channels_last_strides_2d(at::IntArrayRef(sizes4), at::IntArrayRef(strides4));
}

at::Tensor NewConvolved(const MetaCall& call, at::IntArrayRef sizes, const at::Tensor& input,
                        const at::Tensor& weight) {
  if (IsLengthLast(weight)) return NewIn(sizes, input.scalar_type(), ConvolutionFormat(call, input, weight));
  return NewStrided(sizes, {sizes[1] * sizes[2], 1, sizes[1]}, input.scalar_type());
}

// One number per spatial dimension, none below `least`.
void CheckConvolution(size_t rank, std::initializer_list<c10::DimVector> parameters, int64_t least) {
  for (const c10::DimVector& values : parameters) {
    TORCH_CHECK(values.size() == rank, "convolution: expected ", rank, " numbers, got ", at::IntArrayRef(values));
    for (int64_t value : values) TORCH_CHECK(value >= least, "convolution: ", value, " is less than ", least);
  }
}

// convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
void Convolution(MetaCall& call) {
  const at::Tensor &input = call.tensor(0), &weight = call.tensor(1);
  TORCH_CHECK(input.dim() == weight.dim() && weight.dim() > 2,
              "convolution: expected input and weight of the same number of dimensions, got ", input.sizes(), " and ",
              weight.sizes());
  const size_t rank = static_cast<size_t>(weight.dim() - 2);
  TORCH_CHECK(input.scalar_type() == weight.scalar_type(), "Input type (", input.scalar_type(), ") and weight type (",
              weight.scalar_type(), ") should be the same");
  const bool transposed = call[6].toBool();
  const int64_t groups = call.integer(8);
  TORCH_CHECK(input.size(1) == (transposed ? weight.size(0) : weight.size(1) * groups), "convolution: weight of size ",
              weight.sizes(), " and groups=", groups, " do not fit input ", input.sizes());
  const c10::DimVector stride = Broadcast(call.integers(3), rank), padding = Broadcast(call.integers(4), rank),
                       dilation = Broadcast(call.integers(5), rank), extra = Broadcast(call.integers(7), rank);
  CheckConvolution(rank, {stride, dilation}, 1);
  CheckConvolution(rank, {padding, extra}, 0);
  TORCH_CHECK(groups > 0, "non-positive groups is not supported");
  const std::vector<int64_t> sizes =
      transposed ? at::native::conv_input_size(input.sizes(), weight.sizes(), padding, extra, stride, dilation, groups)
                 : at::native::conv_output_size(input.sizes(), weight.sizes(), padding, stride, dilation);
  for (int64_t size : sizes) TORCH_CHECK(size >= 0, "Calculated output size is too small for input ", input.sizes());
  call.Return(NewConvolved(call, sizes, input, weight));
}

// convolution_backward(grad_output, input, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
// groups, output_mask)
void ConvolutionBackward(MetaCall& call) {
  const at::Tensor &input = call.tensor(1), &weight = call.tensor(2);
  const auto mask = call[10].toBoolList();
  at::Tensor grad_input, grad_weight, grad_bias;
  if (mask[0]) grad_input = NewConvolved(call, input.sizes(), input, weight);
  if (mask[1]) grad_weight = NewConvolved(call, weight.sizes(), input, weight);
  if (mask[2]) grad_bias = NewContiguous(call.integers(3), weight.scalar_type());
  call.Return(std::move(grad_input), std::move(grad_weight), std::move(grad_bias));
}

// _adaptive_avg_pool2d(self, output_size)
void AdaptiveAvgPool2d(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  TORCH_CHECK(self.dim() == 3 || self.dim() == 4, "adaptive_avg_pool2d(): Expected 3D or 4D tensor, but got ",
              self.sizes());
  const c10::DimVector output = call.integers(1);
  c10::DimVector sizes(self.sizes());
  sizes[sizes.size() - 2] = output[0];
  sizes[sizes.size() - 1] = output[1];
  call.Return(NewIn(sizes, self.scalar_type(), self.dim() == 4 ? SuggestedFormat(self) : at::MemoryFormat::Contiguous));
}

// _scaled_dot_product_flash_attention_for_cpu(query, key, value, ...) -> (output like query, logsumexp laid out by
// length)
void FlashAttention(MetaCall& call) {
  const at::Tensor& query = call.tensor(0);
  const int64_t batch = query.size(0), heads = query.size(1), length = query.size(2);
  const at::ScalarType accumulate = query.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor logsumexp = NewStrided({batch, heads, length}, {length * heads, 1, heads}, accumulate);
  call.Return(NewLike(query), std::move(logsumexp));
}

// log_sigmoid_forward(self) -> (output, what the backward of the CPU reads)
void LogSigmoid(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  if (call.on_gpu()) return call.Return(NewLike(self), NewContiguous({0}, self.scalar_type()));
  call.Return(NewContiguous(self.sizes(), self.scalar_type()), NewContiguous(self.sizes(), self.scalar_type()));
}

// A sum of gates over the batch, or none.
at::Tensor GateBias(const at::Tensor& gates, bool has_bias) {
  return has_bias ? NewContiguous({gates.size(1)}, gates.scalar_type()) : at::Tensor();
}

// _thnn_fused_gru_cell(input_gates, hidden_gates, hx, input_bias?, hidden_bias?) -> (hy, workspace of five gates)
void GruCell(MetaCall& call) {
  const at::Tensor& hx = call.tensor(2);
  at::Tensor workspace = NewContiguous({hx.size(0), hx.size(1) * 5}, hx.scalar_type());
  call.Return(NewContiguous(hx.sizes(), hx.scalar_type()), std::move(workspace));
}

// _thnn_fused_gru_cell_backward(grad_hy, workspace, has_bias) -> gradients of both gates, hx and both biases
void GruCellBackward(MetaCall& call) {
  const at::Tensor &grad = call.tensor(0), &workspace = call.tensor(1);
  const bool has_bias = call[2].toBool();
  const auto gates = [&] {
    return NewContiguous({workspace.size(0), workspace.size(1) / 5 * 3}, workspace.scalar_type());
  };
  at::Tensor of_input = gates(), of_hidden = gates();
  at::Tensor input_bias = GateBias(of_input, has_bias), hidden_bias = GateBias(of_hidden, has_bias);
  call.Return(std::move(of_input), std::move(of_hidden), NewContiguous(grad.sizes(), grad.scalar_type()),
              std::move(input_bias), std::move(hidden_bias));
}

// _thnn_fused_lstm_cell(input_gates, hidden_gates, cx, input_bias?, hidden_bias?) -> (hy, cy, workspace of the gates)
void LstmCell(MetaCall& call) {
  const at::Tensor &gates = call.tensor(0), &cx = call.tensor(2);
  at::Tensor workspace = NewContiguous(gates.sizes(), gates.scalar_type());
  call.Return(NewContiguous(cx.sizes(), cx.scalar_type()), NewContiguous(cx.sizes(), cx.scalar_type()),
              std::move(workspace));
}

// _thnn_fused_lstm_cell_backward_impl(grad_hy?, grad_cy?, cx, cy, workspace, has_bias) -> gradients of the gates, cx
// and the bias
void LstmCellBackward(MetaCall& call) {
  if (!call.has(0) && !call.has(1)) return call.Return(at::Tensor(), at::Tensor(), at::Tensor());
  const at::Tensor &cx = call.tensor(2), &workspace = call.tensor(4);
  at::Tensor gates = NewContiguous(workspace.sizes(), workspace.scalar_type());
  at::Tensor bias = GateBias(gates, call[5].toBool());
  call.Return(std::move(gates), NewContiguous(cx.sizes(), cx.scalar_type()), std::move(bias));
}

}  // namespace

const std::vector<OwnMetaRow>& NeuralMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::embedding", Embedding},
      {"aten::embedding_dense_backward", EmbeddingDenseBackward},
      {"aten::native_layer_norm", LayerNorm},
      {"aten::native_layer_norm_backward", LayerNormBackward},
      {"aten::native_group_norm", GroupNorm},
      {"aten::native_batch_norm", BatchNorm},
      {"aten::_native_batch_norm_legit", BatchNorm},
      {"aten::_native_batch_norm_legit.no_stats", BatchNormNoStatistics},
      {"aten::_native_batch_norm_legit_no_training", BatchNormInference},
      {"aten::_native_batch_norm_legit_functional", BatchNormFunctional},
      {"aten::native_batch_norm_backward", BatchNormBackward},
      {"aten::convolution", Convolution},
      {"aten::convolution_backward", ConvolutionBackward},
      {"aten::_adaptive_avg_pool2d", AdaptiveAvgPool2d},
      {"aten::_scaled_dot_product_flash_attention_for_cpu", FlashAttention},
      {"aten::log_sigmoid_forward", LogSigmoid},
      {"aten::_thnn_fused_gru_cell", GruCell},
      {"aten::_thnn_fused_gru_cell_backward", GruCellBackward},
      {"aten::_thnn_fused_lstm_cell", LstmCell},
      {"aten::_thnn_fused_lstm_cell_backward_impl", LstmCellBackward},
  };
  return *rows;
}

}  // namespace framejit
