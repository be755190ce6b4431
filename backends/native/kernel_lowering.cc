#include "backends/native/kernel_lowering.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace framejit::native {
namespace {

class KernelLowering {
 public:
  KernelLowering(const GraphFacts& facts, const FusionResult& fusion, const Unit& unit, int segment)
      : segment_(segment),
        first_segment_(segment),
        facts_(facts),
        fusion_(fusion),
        unit_(unit),
        unit_index_(fusion.unit_of[static_cast<size_t>(unit.nodes[0])]),
        builder_(KernelSizes(unit, segment)) {}

  // `segments`: how many, all of the same length.
  absl::StatusOr<LoweredKernel> Run(const std::vector<bool>& stored, int segments) {
    std::vector<absl::flat_hash_map<ValueId, loop::ValueId>> made;
    for (segment_ = first_segment_; segment_ < first_segment_ + segments; ++segment_) {
      made_.clear();
      if (absl::Status status = Compute(); !status.ok()) return status;
      made.push_back(std::move(made_));
    }
    for (segment_ = first_segment_; segment_ < first_segment_ + segments; ++segment_) {
      made_ = std::move(made[static_cast<size_t>(segment_ - first_segment_)]);
      StoreAll(stored);
    }
    auto kernel = std::move(builder_).Finish();
    if (!kernel.ok()) return kernel.status();
    result_.kernel = *std::move(kernel);
    return std::move(result_);
  }

 private:
  absl::Status Compute() {
    Emitter::Callbacks callbacks;
    callbacks.load = [this](ValueId id, int align) { return Load(id, align); };
    callbacks.index = [this](int64_t dim) { return Index(dim); };
    Emitter emitter(facts_, builder_, std::move(callbacks));
    for (int32_t n : unit_.nodes) {
      current_ = n;
      if (!IsHere(n)) continue;
      const Node& node = facts_.graph.nodes[static_cast<size_t>(n)];
      if (segment_ >= 0 && IsConcatenation(node)) {
        made_[node.outputs[0]] = LoadPart(node);
        continue;
      }
      auto results = emitter.Emit(node);
      if (!results || failed_) return absl::UnimplementedError(absl::StrCat("no loop form of ", OperatorName(node.op)));
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (node.outputs[i] != kNoValue) made_[node.outputs[i]] = (*results)[i];
      }
    }
    return absl::OkStatus();
  }

  void StoreAll(const std::vector<bool>& stored) {
    for (int32_t n : unit_.nodes) {
      if (!IsHere(n)) continue;
      for (ValueId id : facts_.graph.nodes[static_cast<size_t>(n)].outputs) {
        current_ = n;
        if (id != kNoValue && stored[static_cast<size_t>(id)]) Store(id);
      }
    }
  }

  // Whether the node runs in the segment that is being lowered.
  bool IsHere(int32_t n) const {
    const int8_t segment = fusion_.segments[static_cast<size_t>(n)];
    return segment < 0 || segment == segment_;
  }

  // Elements from the start of a value over the whole domain to that of the segment. What is computed for the segment
  // alone begins there.
  int64_t SegmentOffset(const std::vector<int64_t>& strides) const {
    if (segment_ < 0 || fusion_.segments[static_cast<size_t>(current_)] >= 0) return 0;
    return unit_.cuts[static_cast<size_t>(segment_)] * strides[static_cast<size_t>(unit_.segment_dim)];
  }

  // The operand of a concatenation that this segment is.
  loop::ValueId LoadPart(const Node& node) {
    const ValueId id = node.operands[0].values[static_cast<size_t>(segment_)];
    return Load(id, kAlignRight, /*whole=*/false);
  }

  static std::vector<int64_t> KernelSizes(const Unit& unit, int segment) {
    size_t rows = unit.domain.size() - static_cast<size_t>(unit.inner_dims);
    std::vector<int64_t> sizes(unit.domain.begin(), unit.domain.begin() + static_cast<int64_t>(rows));
    if (segment >= 0) {
      const size_t i = static_cast<size_t>(segment);
      sizes[static_cast<size_t>(unit.segment_dim)] = unit.cuts[i + 1] - unit.cuts[i];
    }
    if (unit.inner_dims == 0) return sizes;
    int64_t inner = 1;
    for (size_t d = rows; d < unit.domain.size(); ++d) inner *= unit.domain[d];
    sizes.push_back(inner);
    return sizes;
  }

  // Fusion has checked that the inner dimensions can be walked with the stride of the last one.
  std::vector<int64_t> KernelStrides(std::vector<int64_t> strides) const {
    if (unit_.inner_dims > 1) {
      strides[strides.size() - static_cast<size_t>(unit_.inner_dims)] = strides.back();
      strides.resize(strides.size() - static_cast<size_t>(unit_.inner_dims) + 1);
    }
    return strides;
  }

  int64_t Bytes(ValueId id) const {
    const TensorMeta& meta = facts_.graph.meta(id);
    return meta.numel() * static_cast<int64_t>(c10::elementSize(meta.dtype));
  }

  // `whole`: of a value over the whole domain, where there are segments.
  loop::ValueId Load(ValueId id, int align, bool whole = true) {
    ValueId source = fusion_.sources[static_cast<size_t>(id)];
    int32_t producer = facts_.producers[static_cast<size_t>(source)];
    if (producer >= 0 && fusion_.unit_of[static_cast<size_t>(producer)] == unit_index_) return made_.at(source);
    const TensorMeta& meta = facts_.graph.meta(id);
    auto [buffer, inserted] = buffer_of_.try_emplace(id, 0);
    if (inserted) {
      buffer->second = builder_.AddInput(*LoopDType(meta.dtype));
      result_.buffers.push_back(id);
      result_.bytes += Bytes(id);
    }
    const DimMap& map = fusion_.node_maps[static_cast<size_t>(current_)];
    const std::vector<int64_t> strides = DomainStrides(meta, map, align, unit_.domain.size());
    return builder_.Load(buffer->second, KernelStrides(strides), whole ? SegmentOffset(strides) : 0);
  }

  loop::ValueId Index(int64_t dim) {
    int8_t position = fusion_.node_maps[static_cast<size_t>(current_)][static_cast<size_t>(dim)];
    if (position == kSizeOne) return builder_.ConstInt(loop::DType::kInt64, 0);
    size_t rows = unit_.domain.size() - static_cast<size_t>(unit_.inner_dims);
    if (unit_.inner_dims > 1 && static_cast<size_t>(position) >= rows) failed_ = true;
    const loop::ValueId index = builder_.Index(failed_ ? 0 : position);
    if (segment_ < 0 || position != unit_.segment_dim || fusion_.segments[static_cast<size_t>(current_)] >= 0) {
      return index;
    }
    const int64_t start = unit_.cuts[static_cast<size_t>(segment_)];
    return builder_.Binary(loop::Op::kAdd, index, builder_.ConstInt(loop::DType::kInt64, start));
  }

  void Store(ValueId id) {
    const TensorMeta& meta = facts_.graph.meta(id);
    auto [buffer, inserted] = output_of_.try_emplace(id, 0);
    if (inserted) {
      buffer->second = builder_.AddOutput(*LoopDType(meta.dtype));
      result_.buffers.push_back(id);
      result_.bytes += Bytes(id);
    }
    const DimMap& map = fusion_.value_maps[static_cast<size_t>(id)];
    const std::vector<int64_t> strides = DomainStrides(meta, map, kAlignRight, unit_.domain.size());
    builder_.Store(buffer->second, KernelStrides(strides), made_.at(id), SegmentOffset(strides));
  }

  int segment_;  // that is being lowered; -1: the unit has none
  const int first_segment_;
  const GraphFacts& facts_;
  const FusionResult& fusion_;
  const Unit& unit_;
  const int32_t unit_index_;
  loop::KernelBuilder builder_;
  LoweredKernel result_;
  absl::flat_hash_map<ValueId, loop::ValueId> made_;
  absl::flat_hash_map<ValueId, int32_t> buffer_of_;  // of what is loaded
  absl::flat_hash_map<ValueId, int32_t> output_of_;  // of what is stored
  int32_t current_ = 0;
  bool failed_ = false;
};

}  // namespace

std::vector<bool> StoredValues(const GraphFacts& facts, const FusionResult& fusion) {
  std::vector<bool> stored(facts.graph.values.size(), false);
  auto source = [&](ValueId id) { return static_cast<size_t>(fusion.sources[static_cast<size_t>(id)]); };
  for (size_t i = 0; i < facts.escapes.size(); ++i) {
    if (facts.escapes[i]) stored[source(static_cast<ValueId>(i))] = true;
  }
  for (size_t n = 0; n < facts.graph.nodes.size(); ++n) {
    int32_t reader = fusion.unit_of[n];
    if (reader < 0) continue;
    ForEachOperandValue(facts.graph.nodes[n], [&](ValueId id) {
      int32_t producer = facts.producers[source(id)];
      if (producer >= 0 && fusion.unit_of[static_cast<size_t>(producer)] != reader) stored[source(id)] = true;
    });
  }
  return stored;
}

absl::StatusOr<LoweredKernel> LowerKernel(const GraphFacts& facts, const FusionResult& fusion, const Unit& unit,
                                          const std::vector<bool>& stored, int segment, int segments) {
  return KernelLowering(facts, fusion, unit, segment).Run(stored, segments);
}

}  // namespace framejit::native
