#include "backends/cpu/row_gathers.h"

#include <c10/core/WrapDimMinimal.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/cpu/parallel.h"
#include "graph/print.h"

namespace framejit::cpu {
namespace {

// self viewed as [outer, size, bytes], the result as [outer, count, bytes].
struct RowGather {
  int64_t outer = 1, size = 0, count = 0, bytes = 0;
  int64_t dim = 0;
  bool wraps = false;  // negative positions count from the end
};

template <typename Position>
class RowGatherCode : public native::KernelCode {
 public:
  RowGatherCode(const RowGather& gather, std::string name) : g_(gather), name_(std::move(name)) {
    const double rows = static_cast<double>(g_.outer) * static_cast<double>(g_.count);
    nanoseconds_ = rows * (1 + static_cast<double>(g_.bytes) / 16);
    grain_ = std::max<int64_t>(1, static_cast<int64_t>(kThreadNanoseconds / nanoseconds_ * rows));
  }

  // buffers: self, positions, result.
  void Run(void* const* buffers, void* /*queue*/) const override {
    const auto* positions = static_cast<const Position*>(buffers[1]);
    Check(positions);
    switch (g_.bytes) {
      case 1:
        return CopyElements<uint8_t>(buffers, positions);
      case 2:
        return CopyElements<uint16_t>(buffers, positions);
      case 4:
        return CopyElements<uint32_t>(buffers, positions);
      case 8:
        return CopyElements<uint64_t>(buffers, positions);
      default:
        return CopyRows(buffers, positions);
    }
  }
  double nanoseconds() const override { return nanoseconds_; }
  const std::string& name() const override { return name_; }
  const std::string& text() const override { return name_; }

 private:
  void Check(const Position* positions) const {
    const Position size = static_cast<Position>(std::min<int64_t>(g_.size, std::numeric_limits<Position>::max()));
    const Position least = g_.wraps ? -size : 0;
    bool wrong = false;
    for (int64_t i = 0; i < g_.count; ++i) wrong |= positions[i] < least || positions[i] >= size;
    if (!wrong) return;
    TORCH_CHECK_INDEX(g_.wraps, "index out of range in self");
    for (int64_t i = 0; i < g_.count; ++i) {
      TORCH_CHECK_INDEX(positions[i] >= least && positions[i] < size, "index ", positions[i],
                        " is out of bounds for dimension ", g_.dim, " with size ", g_.size);
    }
  }

  int64_t Wrapped(Position position) const { return static_cast<int64_t>(position) + (position < 0 ? g_.size : 0); }

  template <typename Element>
  void CopyElements(void* const* buffers, const Position* positions) const {
    ForEachRun([&](int64_t outer, int64_t begin, int64_t end) {
      const Element* from = static_cast<const Element*>(buffers[0]) + outer * g_.size;
      Element* to = static_cast<Element*>(buffers[2]) + outer * g_.count;
      for (int64_t i = begin; i < end; ++i) to[i] = from[Wrapped(positions[i])];
    });
  }

  void CopyRows(void* const* buffers, const Position* positions) const {
    ForEachRun([&](int64_t outer, int64_t begin, int64_t end) {
      const char* from = static_cast<const char*>(buffers[0]) + outer * g_.size * g_.bytes;
      char* to = static_cast<char*>(buffers[2]) + outer * g_.count * g_.bytes;
      for (int64_t i = begin; i < end; ++i) {
        std::memcpy(to + i * g_.bytes, from + Wrapped(positions[i]) * g_.bytes, static_cast<size_t>(g_.bytes));
      }
    });
  }

  // body(outer, begin, end) for ranges of positions, on one thread or several.
  template <typename Body>
  void ForEachRun(const Body& body) const {
    const auto run = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end;) {
        const int64_t outer = row / g_.count, first = row % g_.count, last = std::min(g_.count, first + end - row);
        body(outer, first, last);
        row += last - first;
      }
    };
    const int64_t rows = g_.outer * g_.count;
    if (rows <= grain_) return run(0, rows);
    ParallelFor(rows, grain_, run);
  }

  const RowGather g_;
  const std::string name_;
  double nanoseconds_;
  int64_t grain_;
};

struct Picked {
  ValueId positions = kNoValue;
  int64_t dim = 0;
  bool wraps = false;
};

std::optional<Picked> PickedBy(const Graph& graph, const Node& node) {
  const std::string name = OperatorName(node.op);
  if (name == "aten::embedding") return Picked{node.operands[1].value, 0, false};
  const int64_t rank = static_cast<int64_t>(graph.meta(node.operands[0].value).sizes.size());
  if (name == "aten::index_select" && rank > 0) {
    return Picked{node.operands[2].value, c10::maybe_wrap_dim(node.operands[1].constant.toInt(), rank), false};
  }
  if (name != "aten::index.Tensor") return std::nullopt;
  Picked picked{kNoValue, 0, true};
  const std::vector<ValueId>& indices = node.operands[1].values;
  for (size_t d = 0; d < indices.size(); ++d) {
    if (indices[d] == kNoValue) continue;
    if (picked.positions != kNoValue) return std::nullopt;
    picked.positions = indices[d];
    picked.dim = static_cast<int64_t>(d);
  }
  if (picked.positions == kNoValue) return std::nullopt;
  return picked;
}

}  // namespace

native::DirectCall FindRowGather(const Graph& graph, const Node& node) {
  if (node.operands.empty() || node.operands[0].kind != Operand::Kind::kValue) return {};
  const std::optional<Picked> picked = PickedBy(graph, node);
  if (!picked) return {};
  const ValueId self = node.operands[0].value;
  const TensorMeta &from = graph.meta(self), &positions = graph.meta(picked->positions),
                   &out = graph.meta(node.outputs[0]);
  const bool wide = positions.dtype == at::kLong;
  if ((!wide && positions.dtype != at::kInt) || !positions.is_contiguous() || !from.is_contiguous()) return {};
  if (from.dtype != out.dtype || from.numel() == 0) return {};
  RowGather gather;
  gather.dim = picked->dim;
  gather.wraps = picked->wraps;
  gather.count = positions.numel();
  gather.bytes = static_cast<int64_t>(c10::elementSize(from.dtype));
  const size_t dim = static_cast<size_t>(picked->dim);
  for (size_t d = 0; d < from.sizes.size(); ++d) {
    if (d < dim) gather.outer *= from.sizes[d];
    if (d > dim) gather.bytes *= from.sizes[d];
  }
  gather.size = from.sizes[dim];
  native::DirectCall call;
  call.operands = {self, picked->positions};
  const std::string name = absl::StrCat("framejit_gather_", gather.count, "_of_", gather.size, "x", gather.bytes);
  if (wide)
    call.code = std::make_shared<RowGatherCode<int64_t>>(gather, name);
  else
    call.code = std::make_shared<RowGatherCode<int32_t>>(gather, name);
  return call;
}

}  // namespace framejit::cpu
