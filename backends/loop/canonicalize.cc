// See canonicalize.h.
#include "backends/loop/canonicalize.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "absl/container/inlined_vector.h"

namespace framejit::loop {
namespace {

class Canonicalizer {
 public:
  Canonicalizer(Kernel& kernel, bool tiles) : kernel_(kernel), tiles_(tiles) {}

  void Run() {
    RemoveUnusedNodes();
    FoldUnitDims();
    SortDims();
    MergeDims();
    if (!WidenInnerDim() && tiles_) TileTransposedLoads();
    if (kernel_.inner_size() == 1) {
      // One element per row: element-level throughout, so that no rank question is left.
      for (Access& access : kernel_.accesses) access.strides.back() = 1;
    }
  }

 private:
  void RemoveUnusedNodes() {
    std::vector<bool> used(kernel_.nodes.size());
    for (size_t id = kernel_.nodes.size(); id-- > 0;) {
      const Node& node = kernel_.nodes[id];
      if (node.op == Op::kStore) used[id] = true;
      for (int i = 0; used[id] && i < OperandCount(node.op); ++i) used[node.operands[i]] = true;
    }
    std::vector<ValueId> renamed(kernel_.nodes.size(), kNoValue);
    std::vector<Node> nodes;
    for (size_t id = 0; id < used.size(); ++id) {
      if (!used[id]) continue;
      Node node = kernel_.nodes[id];
      for (int i = 0; i < OperandCount(node.op); ++i) node.operands[i] = renamed[node.operands[i]];
      renamed[id] = static_cast<ValueId>(nodes.size());
      nodes.push_back(node);
    }
    kernel_.nodes = std::move(nodes);
    RemoveUnusedAccesses();
  }

  void RemoveUnusedAccesses() {
    std::vector<Access> accesses;
    for (Node& node : kernel_.nodes) {
      if (node.op != Op::kLoad && node.op != Op::kStore) continue;
      const Access& access = kernel_.accesses[node.attr];
      const auto known = std::find(accesses.begin(), accesses.end(), access);
      node.attr = known - accesses.begin();
      if (known == accesses.end()) accesses.push_back(access);
    }
    kernel_.accesses = std::move(accesses);
  }

  // The position along a dimension of one element is zero.
  void FoldUnitDims() {
    for (Node& node : kernel_.nodes) {
      if (node.op != Op::kIndex || kernel_.dims[node.attr].size != 1) continue;
      node = Node{Op::kConst, DType::kInt64};
    }
    const bool reduces = kernel_.has_reductions();
    for (size_t d = kernel_.dims.size(); d-- > 0;) {
      const bool inner = d + 1 == kernel_.dims.size();
      if (kernel_.dims[d].size == 1 && kernel_.dims.size() > 1 && !(inner && reduces)) EraseDim(d);
    }
  }

  void EraseDim(size_t d) {
    kernel_.dims.erase(kernel_.dims.begin() + d);
    for (Access& access : kernel_.accesses) access.strides.erase(access.strides.begin() + d);
    for (Node& node : kernel_.nodes) {
      if (node.op == Op::kIndex && node.attr > static_cast<int64_t>(d)) --node.attr;
    }
  }

  // How badly the accesses like dimension d to be the inner one: stores first, then loads.
  int64_t Distance(size_t d) const {
    int64_t distance = 0;
    for (const Node& node : kernel_.nodes) {
      if (node.op == Op::kStore) distance = std::max(distance, std::abs(kernel_.accesses[node.attr].strides[d]));
    }
    return distance;
  }

  // Whether each store touches every position once; otherwise making another dimension the inner one would change what
  // is a row value.
  bool StoresAreInjective() const {
    for (const Node& node : kernel_.nodes) {
      if (node.op != Op::kStore) continue;
      for (size_t d = 0; d < kernel_.dims.size(); ++d) {
        if (kernel_.dims[d].size > 1 && kernel_.accesses[node.attr].strides[d] == 0) return false;
      }
    }
    return true;
  }

  // Outer to inner by falling distance between neighbouring stores. With reductions the inner dimension stays.
  void SortDims() {
    const size_t movable = kernel_.dims.size() - (kernel_.has_reductions() || !StoresAreInjective() ? 1 : 0);
    std::vector<size_t> order(kernel_.dims.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.begin() + movable,
                     [&](size_t a, size_t b) { return Distance(a) > Distance(b); });
    Permute(order);
  }

  void Permute(const std::vector<size_t>& order) {
    if (std::is_sorted(order.begin(), order.end())) return;
    const auto apply = [&](auto& list) {
      auto old = list;
      for (size_t d = 0; d < order.size(); ++d) list[d] = old[order[d]];
    };
    apply(kernel_.dims);
    for (Access& access : kernel_.accesses) apply(access.strides);
    for (Node& node : kernel_.nodes) {
      if (node.op != Op::kIndex) continue;
      node.attr = std::find(order.begin(), order.end(), static_cast<size_t>(node.attr)) - order.begin();
    }
  }

  bool IsIndexed(size_t d) const {
    return std::any_of(kernel_.nodes.begin(), kernel_.nodes.end(),
                       [&](const Node& node) { return node.op == Op::kIndex && node.attr == static_cast<int64_t>(d); });
  }

  // Turn  [A, B] with strides (s * B, s)  into  [A * B] with stride s.
  void MergeDims() {
    const bool reduces = kernel_.has_reductions();
    for (size_t d = kernel_.dims.size() - 1; d-- > 0;) {
      const bool with_inner = d + 2 == kernel_.dims.size();
      if ((with_inner && reduces) || IsIndexed(d) || IsIndexed(d + 1)) continue;
      const int64_t size = kernel_.dims[d + 1].size;
      const bool fits = std::all_of(kernel_.accesses.begin(), kernel_.accesses.end(), [&](const Access& access) {
        return access.strides[d] == access.strides[d + 1] * size;
      });
      if (!fits) continue;
      kernel_.dims[d + 1].size *= kernel_.dims[d].size;
      EraseDim(d);
    }
  }

  // Fewer elements than a vector has along the inner dimension, far from each other in a load: the dimension along
  // which that load is contiguous becomes the inner one. Stores are then apart by a few elements (interleaving
  // channels).
  bool WidenInnerDim() {
    const size_t inner = kernel_.dims.size() - 1;
    if (kernel_.has_reductions() || kernel_.inner_size() >= kMinTile || !StoresAreInjective()) return false;
    const size_t along = ContiguousRowDim();
    if (along == inner) return false;
    std::vector<size_t> order(inner + 1);
    std::iota(order.begin(), order.end(), 0);
    std::rotate(order.begin() + along, order.begin() + along + 1, order.end());
    Permute(order);
    // Strips that stay in the cache until all that lie between their elements are written.
    const int64_t strip = LargestDivisor(kernel_.inner_size(), kMaxStrip, kMaxTile);
    if (strip != 0 && strip < kernel_.inner_size()) Cut(inner, strip, inner - 1);
    return true;
  }

  // A load whose neighbours along the inner dimension lie far apart uses one element of each cache line per row. So
  // that the line is still there when the next row wants its neighbour, and few pages are in use at a time, the inner
  // dimension and the one along which the load is contiguous are walked in tiles:
  //   [A, R, C]  becomes  [A, R / rows, C / tile, rows, tile].
  void TileTransposedLoads() {
    const size_t inner = kernel_.dims.size() - 1;
    if (kernel_.has_reductions() || inner == 0 || IsIndexed(inner) || kernel_.inner_size() <= kMaxTile) return;
    const size_t along = ContiguousRowDim();
    if (along == inner || IsIndexed(along)) return;
    const int64_t tile = TileOf(kernel_.inner_size());
    const int64_t rows = TileOf(kernel_.dims[along].size);
    if (tile == 0) return;
    std::vector<size_t> order(inner + 1);
    std::iota(order.begin(), order.end(), 0);
    std::rotate(order.begin() + along, order.begin() + along + 1, order.begin() + inner);
    Permute(order);
    Cut(inner, tile, inner - 1);
    if (rows != 0) Cut(inner, rows, inner - 1);
  }

  // Cuts dimension d into blocks of `size`; the blocks become dimension `at`, before d.
  void Cut(size_t d, int64_t size, size_t at) {
    const int64_t blocks = kernel_.dims[d].size / size;
    kernel_.dims[d].size = size;
    kernel_.dims.insert(kernel_.dims.begin() + at, Dim{blocks});
    for (Access& access : kernel_.accesses) {
      access.strides.insert(access.strides.begin() + at, access.strides[d] * size);
    }
    for (Node& node : kernel_.nodes) {
      if (node.op == Op::kIndex && node.attr >= static_cast<int64_t>(at)) ++node.attr;
    }
  }

  // The row dimension along which some load with a strided inner dimension is contiguous; the inner one if there is
  // none.
  size_t ContiguousRowDim() const {
    const size_t inner = kernel_.dims.size() - 1;
    for (const Node& node : kernel_.nodes) {
      if (node.op != Op::kLoad) continue;
      const std::vector<int64_t>& strides = kernel_.accesses[node.attr].strides;
      if (strides[inner] == 0 || strides[inner] == 1) continue;
      for (size_t d = 0; d < inner; ++d) {
        if (strides[d] == 1 && kernel_.dims[d].size >= kMinTile) return d;
      }
    }
    return inner;
  }

  // The largest divisor that is a tile, of whole vectors if possible; 0 where there is none.
  static int64_t TileOf(int64_t size) {
    const int64_t whole = LargestDivisor(size, kMaxTile, 8), tile = LargestDivisor(size, kMaxTile, 1);
    if (whole != 0) return whole;
    return tile >= kMinTile ? tile : 0;
  }

  // The largest divisor up to `most` that is a multiple of `multiple`; 0 where there is none.
  static int64_t LargestDivisor(int64_t size, int64_t most, int64_t multiple) {
    for (int64_t divisor = most - most % multiple; divisor > 0; divisor -= multiple) {
      if (size % divisor == 0) return divisor;
    }
    return 0;
  }

  // Rows that use up a cache line of 4-byte elements, and few enough pages for the first-level TLB.
  static constexpr int64_t kMaxTile = 16;
  static constexpr int64_t kMinTile = 8;
  static constexpr int64_t kMaxStrip = 1024;

  Kernel& kernel_;
  const bool tiles_;
};

}  // namespace

void Canonicalize(Kernel& kernel, bool tiles) { Canonicalizer(kernel, tiles).Run(); }

}  // namespace framejit::loop
