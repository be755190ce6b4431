#include "backends/native/fusion.h"

#include <c10/core/WrapDimMinimal.h>

#include <algorithm>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "backends/loop/split.h"
#include "backends/native/alike.h"
#include "backends/native/single_operators.h"

namespace framejit::native {
namespace {

constexpr size_t kMaxNodes = 64;    // of one kernel: beyond, registers spill more than fusion saves
constexpr int8_t kUnknown = -3;     // a dimension no operand inside the group has settled yet
constexpr size_t kMaxSegments = 4;  // parts of one concatenation, each of which is a kernel

int64_t Product(c10::ArrayRef<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

// A placement of a node in a group's domain.
struct Placement {
  DimMap map;
  bool full = false;  // covers all dimensions; otherwise all but the inner ones
};

class Fuser {
 public:
  Fuser(const GraphFacts& facts, const std::vector<bool>& library_only)
      : facts_(facts), library_only_(library_only), trials_(facts) {}

  FusionResult Run() {
    size_t node_count = graph().nodes.size();
    r_.kinds.resize(node_count);
    r_.unit_of.assign(node_count, -1);
    r_.segments.assign(node_count, -1);
    r_.node_maps.resize(node_count);
    r_.value_maps.resize(graph().values.size());
    for (size_t i = 0; i < graph().values.size(); ++i) r_.sources.push_back(static_cast<ValueId>(i));
    for (size_t i = 0; i < node_count; ++i) {
      const Node& node = graph().nodes[i];
      r_.kinds[i] = library_only_[i] ? LibraryOrView(node) : Classify(facts_, node, trials_);
      if (r_.kinds[i] == NodeKind::kView) SetSources(node);
    }
    for (int32_t n : FasterInAten(facts_, r_.kinds)) r_.kinds[static_cast<size_t>(n)] = NodeKind::kLibrary;
    MarkReturnedViews();
    for (size_t i = 0; i < node_count; ++i) Visit(static_cast<int32_t>(i));
    Schedule();
    return std::move(r_);
  }

 private:
  const Graph& graph() const { return facts_.graph; }
  const Node& node(int32_t i) const { return graph().nodes[static_cast<size_t>(i)]; }
  const TensorMeta& meta(ValueId id) const { return graph().meta(id); }
  ValueId source(ValueId id) const { return r_.sources[static_cast<size_t>(id)]; }
  NodeKind kind(int32_t i) const { return r_.kinds[static_cast<size_t>(i)]; }

  // A node refused by the code generator runs through ATen unless it is a view.
  NodeKind LibraryOrView(const Node& n) {
    NodeKind kind = Classify(facts_, n, trials_);
    return kind == NodeKind::kView ? kind : NodeKind::kLibrary;
  }

  void SetSources(const Node& n) {
    for (ValueId id : n.outputs) {
      if (id != kNoValue) r_.sources[static_cast<size_t>(id)] = source(n.operands[0].value);
    }
  }

  // Views the caller receives are made by ATen, so that they know their base as in eager.
  void MarkReturnedViews() {
    for (ValueId id : graph().outputs) {
      while (id != kNoValue) {
        int32_t producer = facts_.producers[static_cast<size_t>(id)];
        if (producer < 0 || kind(producer) != NodeKind::kView) break;
        real_views_.insert(producer);
        id = node(producer).operands[0].value;
      }
    }
  }

  void Visit(int32_t n) {
    switch (kind(n)) {
      case NodeKind::kView:
        if (real_views_.contains(n)) AddLibraryUnit(n);
        return;
      case NodeKind::kLibrary:
        if (!StartSegments(n)) AddLibraryUnit(n);
        return;
      case NodeKind::kPointwise:
      case NodeKind::kRow:
        if (!JoinSomeGroup(n) && !JoinSibling(n) && !StartGroup(n)) {
          r_.kinds[static_cast<size_t>(n)] = NodeKind::kLibrary;
          AddLibraryUnit(n);
        }
        return;
    }
  }

  void AddLibraryUnit(int32_t n) {
    Unit unit;
    unit.nodes = {n};
    r_.unit_of[static_cast<size_t>(n)] = static_cast<int32_t>(r_.units.size());
    r_.units.push_back(std::move(unit));
    if (IsRandom(node(n).op)) random_nodes_.push_back(n);
    Depend(n, r_.unit_of[static_cast<size_t>(n)]);
  }

  // --- dependencies between units ---

  // Units whose results `n` needs. A random node also follows the one before it.
  template <typename VisitUnit>
  void ForEachDependency(int32_t n, VisitUnit visit) const {
    ForEachOperandValue(node(n), [&](ValueId id) {
      int32_t direct = facts_.producers[static_cast<size_t>(id)];
      if (direct >= 0 && r_.unit_of[static_cast<size_t>(direct)] >= 0) visit(r_.unit_of[static_cast<size_t>(direct)]);
      int32_t producer = facts_.producers[static_cast<size_t>(source(id))];
      if (producer >= 0 && producer != direct) visit(r_.unit_of[static_cast<size_t>(producer)]);
    });
    auto random = std::lower_bound(random_nodes_.begin(), random_nodes_.end(), n);
    if (random != random_nodes_.end() && *random == n && random != random_nodes_.begin()) {
      visit(r_.unit_of[static_cast<size_t>(*(random - 1))]);
    }
  }

  // `n` is in `unit` now: what the unit reaches, and what reaches it.
  void Depend(int32_t n, int32_t unit) {
    reach_.resize(r_.units.size(), -1);
    dependents_.resize(r_.units.size());
    moved_to_.resize(r_.units.size(), -1);
    needs_.resize(r_.units.size(), -1);
    int32_t needs = -1;
    ForEachDependency(n, [&](int32_t needed) {
      if (needed == unit) return;
      std::vector<int32_t>& dependents = dependents_[static_cast<size_t>(needed)];
      if (dependents.empty() || dependents.back() != unit) dependents.push_back(unit);
      needs = std::max(needs, reach_[static_cast<size_t>(needed)]);
    });
    needs_[static_cast<size_t>(unit)] = std::max(needs_[static_cast<size_t>(unit)], needs);
    RaiseReach(unit, std::max(n, needs));
  }

  void RaiseReach(int32_t unit, int32_t reach) {
    if (reach_[static_cast<size_t>(unit)] >= reach) return;
    reach_[static_cast<size_t>(unit)] = reach;
    std::vector<int32_t> stack = dependents_[static_cast<size_t>(unit)];
    while (!stack.empty()) {
      size_t u = static_cast<size_t>(stack.back());
      stack.pop_back();
      while (moved_to_[u] >= 0) u = static_cast<size_t>(moved_to_[u]);
      needs_[u] = std::max(needs_[u], reach);
      if (reach_[u] >= reach) continue;
      reach_[u] = reach;
      stack.insert(stack.end(), dependents_[u].begin(), dependents_[u].end());
    }
  }

  // The members of `other` are in `unit` now.
  void Absorb(int32_t unit, int32_t other) {
    std::vector<int32_t>& dependents = dependents_[static_cast<size_t>(other)];
    dependents_[static_cast<size_t>(unit)].insert(dependents_[static_cast<size_t>(unit)].end(), dependents.begin(),
                                                  dependents.end());
    dependents.clear();
    moved_to_[static_cast<size_t>(other)] = unit;
    int32_t& needs = needs_[static_cast<size_t>(unit)];
    needs = std::max(needs, needs_[static_cast<size_t>(other)]);
    const int32_t reach = std::max(reach_[static_cast<size_t>(unit)], reach_[static_cast<size_t>(other)]);
    reach_[static_cast<size_t>(unit)] = -1;  // so that what depends on either is raised
    RaiseReach(unit, reach);
  }

  // Whether making `merged` units and node `n` one unit would make it depend on itself through others.
  bool WouldCycle(c10::ArrayRef<int32_t> merged, int32_t n) const {
    // What leads back to one of them reaches its last node.
    int32_t least = n;
    for (int32_t unit : merged) least = std::min(least, r_.units[static_cast<size_t>(unit)].nodes.back());
    auto is_merged = [&](int32_t unit) { return std::find(merged.begin(), merged.end(), unit) != merged.end(); };
    absl::flat_hash_set<int32_t> seen;
    std::vector<int32_t> stack;
    bool cycle = false;
    auto push_outside = [&](int32_t unit) {
      if (reach_[static_cast<size_t>(unit)] < least) return;
      if (!is_merged(unit) && seen.insert(unit).second) stack.push_back(unit);
    };
    auto push = [&](int32_t unit) {
      if (is_merged(unit)) cycle = true;
      push_outside(unit);
    };
    ForEachDependency(n, push_outside);
    for (int32_t unit : merged) {
      if (needs_[static_cast<size_t>(unit)] < least) continue;  // nothing that it depends on leads back
      for (int32_t member : r_.units[static_cast<size_t>(unit)].nodes) ForEachDependency(member, push_outside);
    }
    while (!stack.empty() && !cycle) {
      int32_t unit = stack.back();
      stack.pop_back();
      for (int32_t member : r_.units[static_cast<size_t>(unit)].nodes) ForEachDependency(member, push);
    }
    return cycle;
  }

  // --- placing nodes in domains ---

  // The domain dimensions of `id`, a value made in `unit` or a view of one that reorders, adds or drops dimensions of
  // one element, or expands. Nullopt: not in the unit. `failed`: in the unit, but as a view of another kind.
  std::optional<DimMap> MapInUnit(ValueId id, int32_t unit, bool& failed) const {
    ValueId made = source(id);
    int32_t producer = facts_.producers[static_cast<size_t>(made)];
    if (producer < 0 || r_.unit_of[static_cast<size_t>(producer)] != unit) return std::nullopt;
    const DimMap& made_map = r_.value_maps[static_cast<size_t>(made)];
    if (made == id) return made_map;
    const TensorMeta& from = meta(made);
    const TensorMeta& to = meta(id);
    DimMap map;
    size_t matched = 0;
    for (size_t i = 0; i < to.sizes.size(); ++i) {
      int8_t dim = kUnknown;
      if (to.sizes[i] == 1)
        dim = kSizeOne;
      else if (to.strides[i] == 0)
        dim = kBroadcast;
      for (size_t j = 0; j < from.sizes.size() && dim == kUnknown; ++j) {
        if (from.sizes[j] == to.sizes[i] && from.strides[j] == to.strides[i]) {
          dim = made_map[j];
          ++matched;
        }
      }
      failed = failed || dim == kUnknown;
      map.push_back(dim);
    }
    size_t wanted = static_cast<size_t>(
        std::count_if(from.sizes.begin(), from.sizes.end(), [](int64_t size) { return size != 1; }));
    failed = failed || matched != wanted || to.storage_offset != from.storage_offset;
    return map;
  }

  // What the operands made in `unit` say about the node's dimensions. False where they disagree.
  bool MapFromOperands(int32_t n, int32_t unit, const c10::DimVector& shape, DimMap& map) const {
    const Node& nd = node(n);
    bool failed = false;
    for (size_t i = 0; i < nd.operands.size(); ++i) {
      if (nd.operands[i].kind != Operand::Kind::kValue || nd.operands[i].value == kNoValue) continue;
      auto operand_map = MapInUnit(nd.operands[i].value, unit, failed);
      if (failed) return false;
      if (!operand_map) continue;
      int first = FirstDim(AlignOf(nd, i), shape.size(), operand_map->size());
      if (first < 0) return false;
      for (size_t d = 0; d < operand_map->size(); ++d) {
        int8_t dim = (*operand_map)[d];
        if (dim < 0) continue;
        int8_t& mine = map[static_cast<size_t>(first) + d];
        if (mine != kUnknown && mine != dim) return false;
        mine = dim;
      }
    }
    return true;
  }

  std::optional<Placement> Place(int32_t n, int32_t unit) const {
    const Unit& group = r_.units[static_cast<size_t>(unit)];
    const c10::DimVector& shape = IterationShape(facts_, kind(n), node(n));
    Placement placement;
    for (int64_t size : shape) placement.map.push_back(size == 1 ? kSizeOne : kUnknown);
    if (!MapFromOperands(n, unit, shape, placement.map)) return std::nullopt;
    std::vector<bool> used(group.domain.size(), false);
    for (size_t i = 0; i < shape.size(); ++i) {
      int8_t dim = placement.map[i];
      if (dim < 0) continue;
      if (shape[i] != group.domain[static_cast<size_t>(dim)] || used[static_cast<size_t>(dim)]) return std::nullopt;
      used[static_cast<size_t>(dim)] = true;
    }
    for (size_t i = shape.size(); i-- > 0;) {
      if (placement.map[i] != kUnknown) continue;
      size_t d = group.domain.size();
      while (d > 0 && (used[d - 1] || group.domain[d - 1] != shape[i])) --d;
      if (d == 0) return std::nullopt;
      used[d - 1] = true;
      placement.map[i] = static_cast<int8_t>(d - 1);
    }
    size_t rows = group.domain.size() - static_cast<size_t>(group.inner_dims);
    for (size_t d = 0; d < rows; ++d) {
      if (!used[d]) return std::nullopt;
    }
    size_t inner_used = static_cast<size_t>(std::count(used.begin() + static_cast<int64_t>(rows), used.end(), true));
    placement.full = inner_used == static_cast<size_t>(group.inner_dims);
    if (!placement.full && inner_used != 0) return std::nullopt;
    return placement;
  }

  // How many trailing dimensions of `domain` the row node reduces; 0 where it reduces others.
  int ReducedInner(int32_t n, const DimMap& map, size_t domain_rank) const {
    std::vector<bool> reduced(domain_rank, false);
    int count = 0;
    for (int64_t d : RowShapeOf(facts_, node(n)).dims) {
      int8_t dim = map[static_cast<size_t>(d)];
      if (dim < 0) continue;
      reduced[static_cast<size_t>(dim)] = true;
      ++count;
    }
    for (size_t d = domain_rank - static_cast<size_t>(count); d < domain_rank; ++d) {
      if (!reduced[d]) return 0;
    }
    return count;
  }

  // Whether the inner dimensions can be walked with one stride in everything that node `n` reads or writes; for
  // columns, whether vectors can run along the last row dimension as well.
  bool InnerMerges(int32_t n, const DimMap& map, c10::ArrayRef<int64_t> domain, int inner_dims, bool columns) const {
    if (inner_dims <= 1 && !columns) return true;
    bool merges = true;
    const size_t rows = domain.size() - static_cast<size_t>(inner_dims);
    auto check = [&](const TensorMeta& value, int align) {
      std::vector<int64_t> strides = DomainStrides(value, map, align, domain.size());
      for (size_t d = rows; d + 1 < domain.size(); ++d) {
        merges = merges && strides[d] == strides[d + 1] * domain[d + 1];
      }
      merges = merges && (!columns || strides[rows - 1] == 0 || strides[rows - 1] == 1);
    };
    const Node& nd = node(n);
    for (size_t i = 0; i < nd.operands.size(); ++i) {
      if (nd.operands[i].kind == Operand::Kind::kValue && nd.operands[i].value != kNoValue) {
        check(meta(nd.operands[i].value), AlignOf(nd, i));
      }
    }
    const c10::DimVector& shape = IterationShape(facts_, kind(n), nd);
    for (ValueId id : nd.outputs) {
      if (id != kNoValue && meta(id).sizes == shape) check(meta(id), kAlignRight);
    }
    return merges;
  }

  bool InnerMergesForUnit(const Unit& unit, int inner_dims, bool columns) const {
    for (int32_t member : unit.nodes) {
      if (!InnerMerges(member, r_.node_maps[static_cast<size_t>(member)], unit.domain, inner_dims, columns))
        return false;
    }
    return true;
  }

  // How vectors run where a row node reduces the last `inner_dims` dimensions of a domain.
  enum class Along : uint8_t { kInner, kColumns, kNeither };
  Along VectorsOf(int32_t n, const DimMap& map, c10::ArrayRef<int64_t> domain, int inner_dims) const {
    const std::vector<int64_t> strides =
        DomainStrides(meta(node(n).operands[0].value), map, kAlignRight, domain.size());
    if (strides.back() == 1) return Along::kInner;
    const size_t rows = domain.size() - static_cast<size_t>(inner_dims);
    const bool wide = rows > 0 && domain[rows - 1] >= kFewColumns && strides[rows - 1] == 1;
    return wide ? Along::kColumns : Along::kNeither;
  }

  // The dimensions of a domain with those that the row node reduces moved behind the others; by old position.
  DimMap ReducedLast(int32_t n, const DimMap& map, size_t domain_rank) const {
    std::vector<bool> reduced(domain_rank, false);
    for (int64_t d : RowShapeOf(facts_, node(n)).dims) {
      if (map[static_cast<size_t>(d)] >= 0) reduced[static_cast<size_t>(map[static_cast<size_t>(d)])] = true;
    }
    DimMap position(domain_rank);
    int8_t next = 0;
    for (bool wanted : {false, true}) {
      for (size_t d = 0; d < domain_rank; ++d) {
        if (reduced[d] == wanted) position[d] = next++;
      }
    }
    return position;
  }

  static void Reorder(const DimMap& position, DimMap& map) {
    for (int8_t& dim : map) dim = dim >= 0 ? position[static_cast<size_t>(dim)] : dim;
  }
  static void Reorder(const DimMap& position, std::vector<int64_t>& domain) {
    const std::vector<int64_t> before = domain;
    for (size_t d = 0; d < before.size(); ++d) domain[static_cast<size_t>(position[d])] = before[d];
  }

  static DimMap Inverse(const DimMap& position) {
    DimMap inverse(position.size());
    for (size_t d = 0; d < position.size(); ++d) inverse[static_cast<size_t>(position[d])] = static_cast<int8_t>(d);
    return inverse;
  }

  // Of a unit without reductions, where the order of dimensions is free. An empty `position` leaves it.
  void ReorderUnit(const DimMap& position, Unit& unit) {
    if (position.empty()) return;
    Reorder(position, unit.domain);
    for (int32_t member : unit.nodes) {
      DimMap map = r_.node_maps[static_cast<size_t>(member)];
      Reorder(position, map);
      SetOutputMaps(member, map);
    }
  }

  void SetOutputMaps(int32_t n, const DimMap& map) {
    const Node& nd = node(n);
    const c10::DimVector& shape = IterationShape(facts_, kind(n), nd);
    std::vector<int64_t> reduced = kind(n) == NodeKind::kRow ? RowShapeOf(facts_, nd).dims : std::vector<int64_t>{};
    r_.node_maps[static_cast<size_t>(n)] = map;
    for (ValueId id : nd.outputs) {
      if (id == kNoValue) continue;
      const c10::DimVector& sizes = meta(id).sizes;
      DimMap out;
      for (size_t d = 0; d < shape.size(); ++d) {
        bool is_reduced = std::binary_search(reduced.begin(), reduced.end(), static_cast<int64_t>(d));
        if (sizes.size() == shape.size()) {
          out.push_back(sizes[d] == 1 ? kSizeOne : map[d]);
        } else if (!is_reduced) {
          out.push_back(map[d]);
        }
      }
      r_.value_maps[static_cast<size_t>(id)] = std::move(out);
    }
  }

  // --- forming groups ---

  bool StartGroup(int32_t n) {
    const Node& nd = node(n);
    const c10::DimVector& shape = IterationShape(facts_, kind(n), nd);
    Unit unit;
    unit.is_kernel = true;
    unit.nodes = {n};
    DimMap map;
    for (int64_t size : shape) {
      map.push_back(size == 1 ? kSizeOne : static_cast<int8_t>(unit.domain.size()));
      if (size != 1) unit.domain.push_back(size);
    }
    if (unit.domain.size() > 100) return false;
    if (kind(n) == NodeKind::kRow) {
      const DimMap position = ReducedLast(n, map, unit.domain.size());
      Reorder(position, unit.domain);
      Reorder(position, map);
      unit.inner_dims = ReducedInner(n, map, unit.domain.size());
      if (unit.inner_dims == 0 || !RowsAreWorthIt(unit.domain, unit.inner_dims)) return false;
      const Along along = VectorsOf(n, map, unit.domain, unit.inner_dims);
      unit.columns = along == Along::kColumns;
      if (along == Along::kNeither || !InnerMerges(n, map, unit.domain, unit.inner_dims, unit.columns)) return false;
    }
    r_.unit_of[static_cast<size_t>(n)] = static_cast<int32_t>(r_.units.size());
    r_.units.push_back(std::move(unit));
    SetOutputMaps(n, map);
    Depend(n, r_.unit_of[static_cast<size_t>(n)]);
    return true;
  }

  // --- concatenations ---

  // A concatenation that pointwise operators read starts a group of its own, with what makes its operands.
  bool StartSegments(int32_t n) {
    if (library_only_[static_cast<size_t>(n)] || !IsConcatenation(node(n)) || !CanBeSegments(n)) return false;
    const Node& nd = node(n);
    const TensorMeta& out = meta(nd.outputs[0]);
    const int64_t rank = static_cast<int64_t>(out.sizes.size());
    const size_t along = static_cast<size_t>(c10::maybe_wrap_dim(nd.operands[1].constant.toInt(), rank));
    r_.kinds[static_cast<size_t>(n)] = NodeKind::kPointwise;
    StartGroup(n);
    const int32_t unit = r_.unit_of[static_cast<size_t>(n)];
    Unit& group = r_.units[static_cast<size_t>(unit)];
    group.segment_dim = r_.node_maps[static_cast<size_t>(n)][along];
    group.cuts = {0};
    for (ValueId id : nd.operands[0].values) group.cuts.push_back(group.cuts.back() + meta(id).sizes[along]);
    for (size_t i = 0; i < nd.operands[0].values.size(); ++i) AbsorbOperand(n, unit, i);
    return true;
  }

  bool CanBeSegments(int32_t n) const {
    const Node& nd = node(n);
    const TensorMeta& out = meta(nd.outputs[0]);
    const std::vector<ValueId>& parts = nd.operands[0].values;
    if (!facts_.IsLoopValue(nd.outputs[0]) || !out.is_contiguous() || out.storage_offset != 0 || out.numel() == 0)
      return false;
    if (parts.size() < 2 || parts.size() > kMaxSegments || out.sizes.size() > 100) return false;
    for (ValueId id : parts) {
      const TensorMeta& part = meta(id);
      if (!facts_.IsLoopValue(id) || part.dtype != out.dtype || part.numel() == 0) return false;
      if (part.sizes.size() != out.sizes.size()) return false;
    }
    if (Interleaves(n) || std::any_of(parts.begin(), parts.end(), [&](ValueId id) { return IsMadeByKernel(id); }))
      return true;
    const std::vector<int32_t>& users = facts_.users[static_cast<size_t>(nd.outputs[0])];
    return std::any_of(users.begin(), users.end(), [&](int32_t user) {
      return kind(user) == NodeKind::kPointwise && IterationShape(facts_, kind(user), node(user)) == out.sizes;
    });
  }

  // Parts of a few bytes lie next to each other: ATen's copies take as long for each as for a cache line.
  bool Interleaves(int32_t n) const {
    const TensorMeta& out = meta(node(n).outputs[0]);
    const size_t along = static_cast<size_t>(
        c10::maybe_wrap_dim(node(n).operands[1].constant.toInt(), static_cast<int64_t>(out.sizes.size())));
    constexpr int64_t kCacheLine = 64;
    return Product(c10::IntArrayRef(out.sizes).slice(along)) * static_cast<int64_t>(c10::elementSize(out.dtype)) <=
           kCacheLine;
  }

  // What can move into a segment: a pointwise result that nobody else reads.
  bool IsMadeByKernel(ValueId id) const {
    const int32_t producer = facts_.producers[static_cast<size_t>(id)];
    if (producer < 0 || source(id) != id || facts_.escapes[static_cast<size_t>(id)]) return false;
    const int32_t unit = r_.unit_of[static_cast<size_t>(producer)];
    return unit >= 0 && facts_.users[static_cast<size_t>(id)].size() == 1 &&
           r_.units[static_cast<size_t>(unit)].is_kernel && r_.units[static_cast<size_t>(unit)].inner_dims == 0;
  }

  // Moves the group that makes operand `part` of the concatenation `n` into its segment, where nobody else needs it.
  void AbsorbOperand(int32_t n, int32_t unit, size_t part) {
    const ValueId id = node(n).operands[0].values[part];
    const int32_t producer = facts_.producers[static_cast<size_t>(id)];
    if (producer < 0 || source(id) != id || r_.unit_of[static_cast<size_t>(producer)] < 0) return;
    const int32_t other = r_.unit_of[static_cast<size_t>(producer)];
    Unit& group = r_.units[static_cast<size_t>(unit)];
    Unit& absorbed = r_.units[static_cast<size_t>(other)];
    if (other == unit || !absorbed.is_kernel || absorbed.inner_dims != 0 || absorbed.segment_dim >= 0) return;
    if (group.nodes.size() + absorbed.nodes.size() > kMaxNodes || !ServesOnly(absorbed, n, id)) return;
    const DimMap& made = r_.value_maps[static_cast<size_t>(id)];
    const DimMap& here = r_.node_maps[static_cast<size_t>(n)];
    std::vector<int8_t> translate(absorbed.domain.size(), kUnknown);
    for (size_t d = 0; d < made.size(); ++d) {
      if (made[d] >= 0) translate[static_cast<size_t>(made[d])] = here[d];
    }
    if (std::any_of(translate.begin(), translate.end(), [](int8_t dim) { return dim < 0; })) return;
    if (WouldCycle({unit, other}, n)) return;
    for (int32_t member : absorbed.nodes) {
      DimMap map = r_.node_maps[static_cast<size_t>(member)];
      for (int8_t& dim : map) dim = dim >= 0 ? translate[static_cast<size_t>(dim)] : dim;
      Move(member, unit, map);
      r_.segments[static_cast<size_t>(member)] = static_cast<int8_t>(part);
      group.nodes.push_back(member);
    }
    std::sort(group.nodes.begin(), group.nodes.end());
    absorbed.nodes.clear();
    Absorb(unit, other);
  }

  // Whether what the unit makes is read inside it only, and `id` once by the concatenation.
  bool ServesOnly(const Unit& unit, int32_t n, ValueId id) const {
    const std::vector<ValueId>& parts = node(n).operands[0].values;
    if (std::count(parts.begin(), parts.end(), id) != 1) return false;
    const int32_t own = r_.unit_of[static_cast<size_t>(unit.nodes[0])];
    for (int32_t member : unit.nodes) {
      for (ValueId output : node(member).outputs) {
        if (output == kNoValue) continue;
        if (facts_.escapes[static_cast<size_t>(output)]) return false;
        for (int32_t user : facts_.users[static_cast<size_t>(output)]) {
          const bool inside = user < n && r_.unit_of[static_cast<size_t>(user)] == own;
          if (!inside && !(user == n && output == id)) return false;
        }
      }
    }
    return true;
  }

  static bool RowsAreWorthIt(c10::ArrayRef<int64_t> domain, int inner_dims) {
    size_t rows = domain.size() - static_cast<size_t>(inner_dims);
    const int64_t inner = Product(domain.slice(rows));
    return Product(domain.slice(0, rows)) >= kFewRows || inner < kWideRow || loop::PiecesOfRow(inner) > 0;
  }

  std::vector<int32_t> OperandGroups(int32_t n) const {
    std::vector<int32_t> groups;
    ForEachOperandValue(node(n), [&](ValueId id) {
      int32_t producer = facts_.producers[static_cast<size_t>(source(id))];
      if (producer < 0) return;
      int32_t unit = r_.unit_of[static_cast<size_t>(producer)];
      if (unit < 0 || !r_.units[static_cast<size_t>(unit)].is_kernel) return;
      if (std::find(groups.begin(), groups.end(), unit) == groups.end()) groups.push_back(unit);
    });
    // The group with reductions first: it fixes the order of dimensions. Then the youngest.
    std::sort(groups.begin(), groups.end(), [&](int32_t a, int32_t b) {
      int inner_a = r_.units[static_cast<size_t>(a)].inner_dims, inner_b = r_.units[static_cast<size_t>(b)].inner_dims;
      return (inner_a > 0) != (inner_b > 0) ? inner_a > 0 : a > b;
    });
    return groups;
  }

  bool JoinSomeGroup(int32_t n) {
    std::vector<int32_t> groups = OperandGroups(n);
    for (int32_t unit : groups) {
      if (!Join(n, unit)) continue;
      for (int32_t other : groups) {
        if (other != unit) MergeInto(unit, other, n);
      }
      return true;
    }
    return false;
  }

  // A row operator over a value that the kernel of another one reads already.
  bool JoinSibling(int32_t n) {
    if (kind(n) != NodeKind::kRow) return false;
    const ValueId id = node(n).operands[0].value;
    for (int32_t other : facts_.users[static_cast<size_t>(id)]) {
      if (other >= n || kind(other) != NodeKind::kRow || node(other).operands[0].value != id) continue;
      const int32_t unit = r_.unit_of[static_cast<size_t>(other)];
      if (unit < 0 || r_.units[static_cast<size_t>(unit)].nodes.size() >= kMaxNodes) continue;
      if (AddTo(n, r_.node_maps[static_cast<size_t>(other)], unit)) return true;
    }
    return false;
  }

  bool Join(int32_t n, int32_t unit) {
    Unit& group = r_.units[static_cast<size_t>(unit)];
    if (group.nodes.size() >= kMaxNodes || (group.segment_dim >= 0 && kind(n) == NodeKind::kRow)) return false;
    auto placement = Place(n, unit);
    if (!placement) return false;
    DimMap position;
    if (kind(n) == NodeKind::kRow) {
      if (!placement->full || !ReadsWholeValueOf(unit, n)) return false;
      if (group.inner_dims == 0) {
        position = ReducedLast(n, placement->map, group.domain.size());
        ReorderUnit(position, group);
        Reorder(position, placement->map);
      }
    }
    if (AddTo(n, placement->map, unit)) return true;
    ReorderUnit(Inverse(position), group);
    return false;
  }

  // Whether something that the unit makes is what the row operator goes over, element by element.
  bool ReadsWholeValueOf(int32_t unit, int32_t n) const {
    bool reads = false;
    ForEachOperandValue(node(n), [&](ValueId id) {
      bool failed = false;
      reads = reads || (meta(id).sizes == meta(node(n).operands[0].value).sizes && MapInUnit(id, unit, failed));
    });
    return reads;
  }

  // Makes the node, whose dimensions are mapped, a member of the unit; false, with nothing changed, where it is none.
  bool AddTo(int32_t n, const DimMap& map, int32_t unit) {
    Unit& group = r_.units[static_cast<size_t>(unit)];
    int inner_dims = group.inner_dims;
    bool columns = group.columns;
    if (kind(n) == NodeKind::kRow) {
      const int reduced = ReducedInner(n, map, group.domain.size());
      if (reduced == 0 || (inner_dims != 0 && inner_dims != reduced)) return false;
      if (!RowsAreWorthIt(group.domain, reduced)) return false;
      if (inner_dims == 0) {
        const Along along = VectorsOf(n, map, group.domain, reduced);
        columns = along == Along::kColumns;
        if (along == Along::kNeither || !InnerMergesForUnit(group, reduced, columns)) return false;
      }
      inner_dims = reduced;
    }
    if (!InnerMerges(n, map, group.domain, inner_dims, columns) || WouldCycle({unit}, n)) return false;
    group.inner_dims = inner_dims;
    group.columns = columns;
    group.nodes.push_back(n);
    r_.unit_of[static_cast<size_t>(n)] = unit;
    SetOutputMaps(n, map);
    Depend(n, unit);
    return true;
  }

  // Moves the members of `other`, one of whose values `n` (a member of `unit`) reads, into `unit` where both iterate
  // over the same domain and `other` has no reduction of its own order.
  void MergeInto(int32_t unit, int32_t other, int32_t n) {
    Unit& group = r_.units[static_cast<size_t>(unit)];
    Unit& absorbed = r_.units[static_cast<size_t>(other)];
    if (absorbed.inner_dims != 0 || absorbed.domain.size() != group.domain.size()) return;
    if (absorbed.segment_dim >= 0 || (group.segment_dim >= 0 && group.inner_dims != 0)) return;
    if (group.nodes.size() + absorbed.nodes.size() > kMaxNodes) return;
    auto there = Place(n, other);
    const DimMap& here = r_.node_maps[static_cast<size_t>(n)];
    if (!there || !there->full) return;
    std::vector<int8_t> translate(absorbed.domain.size(), kUnknown);
    for (size_t d = 0; d < here.size(); ++d) {
      if ((here[d] < 0) != (there->map[d] < 0)) return;
      if (here[d] >= 0) translate[static_cast<size_t>(there->map[d])] = here[d];
    }
    if (std::find(translate.begin(), translate.end(), kUnknown) != translate.end()) return;
    if (WouldCycle({unit, other}, n)) return;
    auto translated = [&](DimMap map) {
      for (int8_t& dim : map) dim = dim >= 0 ? translate[static_cast<size_t>(dim)] : dim;
      return map;
    };
    std::vector<std::pair<int32_t, DimMap>> before;
    for (int32_t member : absorbed.nodes) before.emplace_back(member, r_.node_maps[static_cast<size_t>(member)]);
    for (const auto& [member, map] : before) Move(member, unit, translated(map));
    std::vector<int32_t> alone = group.nodes;
    for (const auto& moved : before) group.nodes.push_back(moved.first);
    std::sort(group.nodes.begin(), group.nodes.end());
    if (IsConsistent(unit)) {
      absorbed.nodes.clear();
      Absorb(unit, other);
      return;
    }
    group.nodes = std::move(alone);
    for (const auto& [member, map] : before) Move(member, other, map);
  }

  void Move(int32_t member, int32_t unit, const DimMap& map) {
    r_.unit_of[static_cast<size_t>(member)] = unit;
    SetOutputMaps(member, map);
  }

  // Whether every member sees the unit's values along the dimensions they were made along.
  bool IsConsistent(int32_t unit) const {
    const Unit& group = r_.units[static_cast<size_t>(unit)];
    for (int32_t member : group.nodes) {
      const DimMap& placed = r_.node_maps[static_cast<size_t>(member)];
      DimMap seen(placed.size(), kUnknown);
      if (!MapFromOperands(member, unit, IterationShape(facts_, kind(member), node(member)), seen)) return false;
      for (size_t d = 0; d < placed.size(); ++d) {
        if (seen[d] != kUnknown && seen[d] != placed[d]) return false;
      }
      if (!InnerMerges(member, placed, group.domain, group.inner_dims, group.columns)) return false;
      if (group.segment_dim >= 0 && IsConcatenation(node(member)) && !PartsFit(member, unit)) return false;
    }
    return true;
  }

  // What the unit makes is an operand of its concatenation only as it is, and in its own segment.
  bool PartsFit(int32_t concatenation, int32_t unit) const {
    const std::vector<ValueId>& parts = node(concatenation).operands[0].values;
    for (size_t i = 0; i < parts.size(); ++i) {
      const int32_t producer = facts_.producers[static_cast<size_t>(source(parts[i]))];
      if (producer < 0 || r_.unit_of[static_cast<size_t>(producer)] != unit) continue;
      if (source(parts[i]) != parts[i] || r_.segments[static_cast<size_t>(producer)] != static_cast<int8_t>(i))
        return false;
    }
    return true;
  }

  // --- order ---

  // Depth first from the units in order of their last node: each unit runs once everything it needs has run.
  void Schedule() {
    std::vector<int32_t> order;
    for (size_t u = 0; u < r_.units.size(); ++u) {
      if (!r_.units[u].nodes.empty()) order.push_back(static_cast<int32_t>(u));
    }
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return r_.units[static_cast<size_t>(a)].nodes.back() < r_.units[static_cast<size_t>(b)].nodes.back();
    });
    std::vector<int32_t> position(r_.units.size(), -1);
    std::vector<Unit> scheduled;
    for (int32_t unit : order) Emit(unit, position, scheduled);
    for (int32_t& unit : r_.unit_of) {
      if (unit >= 0) unit = position[static_cast<size_t>(unit)];
    }
    r_.units = std::move(scheduled);
  }

  void Emit(int32_t unit, std::vector<int32_t>& position, std::vector<Unit>& scheduled) {
    constexpr int32_t kVisiting = -2;
    if (position[static_cast<size_t>(unit)] != -1) return;
    position[static_cast<size_t>(unit)] = kVisiting;
    for (int32_t member : r_.units[static_cast<size_t>(unit)].nodes) {
      ForEachDependency(member, [&](int32_t needed) {
        if (needed != unit) Emit(needed, position, scheduled);
      });
    }
    position[static_cast<size_t>(unit)] = static_cast<int32_t>(scheduled.size());
    scheduled.push_back(r_.units[static_cast<size_t>(unit)]);
  }

  const GraphFacts& facts_;
  const std::vector<bool>& library_only_;
  Trials trials_;
  FusionResult r_;
  absl::flat_hash_set<int32_t> real_views_;
  std::vector<int32_t> random_nodes_;
  // By unit: the largest node in it and in all that it depends on; may be too large.
  std::vector<int32_t> reach_;
  std::vector<int32_t> needs_;  // by unit: the largest reach of the units that it depends on; may be too large
  std::vector<std::vector<int32_t>> dependents_;  // by unit: those with a member that needs one of its
  std::vector<int32_t> moved_to_;                 // by unit: where its members are now; -1: here
};

}  // namespace

FusionResult Fuse(const GraphFacts& facts, const std::vector<bool>& library_only) {
  return Fuser(facts, library_only).Run();
}

}  // namespace framejit::native
