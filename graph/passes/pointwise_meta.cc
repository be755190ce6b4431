#include "graph/passes/pointwise_meta.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "graph/print.h"

namespace framejit {
namespace {

bool Broadcast(absl::Span<const TensorMeta* const> operands, c10::DimVector& sizes) {
  for (const TensorMeta* operand : operands) {
    size_t rank = operand->sizes.size();
    if (rank > sizes.size()) sizes.insert(sizes.begin(), rank - sizes.size(), 1);
    size_t skip = sizes.size() - rank;
    for (size_t i = 0; i < rank; ++i) {
      int64_t& size = sizes[skip + i];
      int64_t other = operand->sizes[i];
      if (size != other && size != 1 && other != 1) return false;
      if (size == 1) size = other;
    }
  }
  return true;
}

// Covers its memory once, without gaps.
bool IsDense(const TensorMeta& meta) {
  std::vector<size_t> order;
  for (size_t i = 0; i < meta.sizes.size(); ++i) {
    if (meta.sizes[i] != 1) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return meta.strides[a] < meta.strides[b]; });
  int64_t expected = 1;
  for (size_t i : order) {
    if (meta.strides[i] != expected) return false;
    expected *= meta.sizes[i];
  }
  return true;
}

// One operand's strides over the broadcast sizes, 0 where it repeats.
c10::DimVector BroadcastStrides(const TensorMeta& operand, const c10::DimVector& sizes) {
  c10::DimVector strides(sizes.size(), 0);
  size_t skip = sizes.size() - operand.sizes.size();
  for (size_t i = 0; i < operand.sizes.size(); ++i) {
    bool repeats = operand.sizes[i] == 1 && sizes[skip + i] != 1;
    strides[skip + i] = repeats ? 0 : operand.strides[i];
  }
  return strides;
}

// 1: dimension a lies outside dimension b, and they must swap; -1: they are in order; 0: undecided.
int CompareDimensions(const std::vector<c10::DimVector>& strides, const c10::DimVector& sizes, size_t a, size_t b) {
  for (const c10::DimVector& operand : strides) {
    if (operand[a] == 0 || operand[b] == 0) continue;
    if (operand[a] != operand[b]) return operand[a] < operand[b] ? -1 : 1;
    if (sizes[a] > sizes[b]) return 1;
  }
  return 0;
}

// Dimensions from the innermost to the outermost: TensorIteratorBase::reorder_dimensions.
std::vector<size_t> MemoryOrder(const std::vector<c10::DimVector>& strides, const c10::DimVector& sizes) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.rbegin(), order.rend(), 0);
  for (size_t i = 1; i < order.size(); ++i) {
    size_t moving = i;
    for (size_t other = i; other-- > 0;) {
      int comparison = CompareDimensions(strides, sizes, order[other], order[moving]);
      if (comparison < 0) break;
      if (comparison == 0) continue;
      std::swap(order[other], order[moving]);
      moving = other;
    }
  }
  return order;
}

}  // namespace

std::optional<TensorMeta> PointwiseMeta(absl::Span<const TensorMeta* const> operands, at::ScalarType dtype) {
  TensorMeta meta;
  meta.dtype = dtype;
  // Numbers on the CPU go with tensors of any device.
  const auto elsewhere = std::find_if(operands.begin(), operands.end(),
                                      [](const TensorMeta* operand) { return !operand->device.is_cpu(); });
  meta.device = elsewhere == operands.end() ? c10::Device(c10::kCPU) : (*elsewhere)->device;
  if (!Broadcast(operands, meta.sizes)) return std::nullopt;
  const TensorMeta& first = *operands.front();
  bool alike = std::all_of(operands.begin(), operands.end(), [&](const TensorMeta* operand) {
    return operand->sizes == meta.sizes && operand->strides == first.strides;
  });
  if (alike && IsDense(first)) {
    meta.strides = first.strides;
    return meta;
  }
  bool contiguous = std::all_of(operands.begin(), operands.end(), [&](const TensorMeta* operand) {
    return operand->sizes == meta.sizes && operand->is_contiguous();
  });
  meta.strides = ContiguousStrides(meta.sizes);
  if (contiguous || meta.numel() == 0) return meta;
  std::vector<c10::DimVector> strides;
  for (const TensorMeta* operand : operands) strides.push_back(BroadcastStrides(*operand, meta.sizes));
  int64_t expected = 1;
  for (size_t dim : MemoryOrder(strides, meta.sizes)) {
    meta.strides[dim] = expected;
    expected *= std::max<int64_t>(meta.sizes[dim], 1);
  }
  return meta;
}

}  // namespace framejit
