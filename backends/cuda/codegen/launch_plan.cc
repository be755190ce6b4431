// See launch_plan.h.
#include "backends/cuda/codegen/launch_plan.h"

#include <algorithm>
#include <cstdlib>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "backends/loop/canonicalize.h"
#include "backends/loop/schedule.h"

namespace framejit::cuda {
namespace {

using loop::Access;
using loop::Kernel;
using loop::Node;
using loop::Op;

constexpr int kVectorBytes = 16;  // the widest access of a thread
constexpr int kThreads = 256;     // of a block whose size nothing else decides
constexpr int kWarp = 32;
constexpr int kColumnsOfBlock = kWarp;  // neighbouring rows of a block
constexpr int kMaxColumnLanes = 32;
constexpr int kMaxLanes = 1024;
constexpr int kMaxSteps = 8;
constexpr int kSharedBytes = 48 << 10;
constexpr int kBankBytes = 4;         // of shared memory, in a row
constexpr int kVectorsOfLane = 4;     // what a lane should have to do before a row gets more of them
constexpr int kBytesOnTheirWay = 32;  // of loads in each thread, which keep memory busy
constexpr int kResidentBytes = 128;   // of a row in the registers of one thread; 256 are all that large blocks leave
constexpr int64_t kMinColumns = 8;
constexpr int kTileTurns = 4;                           // in which a block takes the rows of a tile
constexpr int64_t kFewTileElements = int64_t{1} << 15;  // less is over before tiles make a difference
constexpr int64_t kManyVectors = int64_t{1} << 20;      // enough for all threads of a GPU several times over

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int PowerOfTwoAtLeast(int64_t value, int most) {
  int power = 1;
  while (power < value && power < most) power *= 2;
  return power;
}

// value * 2^shift, within [least, most].
int Shifted(int value, int shift, int least, int most) {
  return std::clamp(shift >= 0 ? value << shift : value >> -shift, least, std::max(least, most));
}

int64_t TileBytes(int tile, loop::DType dtype) {
  return int64_t{tile} * TilePitch(tile, dtype) * loop::DTypeBytes(dtype);
}

class Planner {
 public:
  Planner(const Kernel& kernel, int max_vector, PlanChange change)
      : kernel_(kernel), schedule_(loop::MakeSchedule(kernel, 0)), max_vector_(max_vector), change_(change) {}

  LaunchPlan Run() {
    plan_.wide_index = NeedsWideIndex();
    if (!kernel_.has_reductions() && !StoresRowValues()) {
      if (!PlanTiles()) PlanElements();
    } else if (RunsAlongColumns()) {
      PlanColumns();
    } else {
      PlanRows();
    }
    return std::move(plan_);
  }

 private:
  const Access& AccessOf(const Node& node) const { return kernel_.accesses[static_cast<size_t>(node.attr)]; }
  bool IsElementAccess(size_t id) const {
    const Op op = kernel_.nodes[id].op;
    return (op == Op::kLoad || op == Op::kStore) && schedule_.is_element[id];
  }

  template <typename Visit>
  void ForEachElementAccess(Visit visit) const {
    for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
      if (IsElementAccess(id)) visit(kernel_.nodes[id]);
    }
  }

  bool StoresRowValues() const {
    for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
      if (kernel_.nodes[id].op == Op::kStore && !schedule_.is_element[id]) return true;
    }
    return false;
  }

  bool NeedsWideIndex() const {
    constexpr int64_t kLimit = int64_t{1} << 30;  // leaves room for what a block adds beyond the end
    if (kernel_.row_count() * std::max<int64_t>(1, kernel_.inner_size()) >= kLimit) return true;
    return std::any_of(kernel_.accesses.begin(), kernel_.accesses.end(), [&](const Access& access) {
      int64_t reach = std::abs(access.offset);
      for (size_t d = 0; d < kernel_.dims.size(); ++d) reach += std::abs(access.strides[d]) * kernel_.dims[d].size;
      return reach >= kLimit;
    });
  }

  // --- vectors ---

  // As many elements as make the widest access of the narrowest type, no more than two such accesses of the widest.
  int VectorOf() const {
    int64_t narrowest = kVectorBytes, widest = 1;
    bool any = false;
    ForEachElementAccess([&](const Node& node) {
      if (AccessOf(node).strides.back() != 1) return;
      narrowest = std::min(narrowest, loop::DTypeBytes(node.dtype));
      widest = std::max(widest, loop::DTypeBytes(node.dtype));
      any = true;
    });
    if (!any) return 1;
    return static_cast<int>(std::min<int64_t>(
        max_vector_, std::max<int64_t>(1, std::min(kVectorBytes / narrowest, 2 * kVectorBytes / widest))));
  }

  // Which accesses stay aligned from row to row.
  void ChooseVectors(int vector) {
    plan_.vector = vector;
    plan_.vectorised.assign(kernel_.accesses.size(), false);
    for (size_t a = 0; vector > 1 && a < kernel_.accesses.size(); ++a) {
      const Access& access = kernel_.accesses[a];
      const int64_t item = loop::DTypeBytes(kernel_.buffers[static_cast<size_t>(access.buffer)].dtype);
      const int64_t bytes = std::min<int64_t>(kVectorBytes, vector * item);
      bool aligned = access.strides.back() == 1 && access.offset * item % bytes == 0;
      for (size_t d = 0; d + 1 < kernel_.dims.size(); ++d) aligned = aligned && access.strides[d] * item % bytes == 0;
      plan_.vectorised[a] = aligned;
    }
  }

  // --- without reductions ---

  void PlanElements() {
    int vector = VectorOf();
    // With several dimensions a vector must not reach from one row into the next.
    while (kernel_.dims.size() > 1 && kernel_.inner_size() % vector != 0) vector /= 2;
    ChooseVectors(vector);
    const int64_t vectors = kernel_.row_count() * CeilDiv(kernel_.inner_size(), vector);
    plan_.spread = Spread::kElements;
    plan_.threads = Shifted(kThreads, change_.threads, kWarp, kMaxLanes);
    const int steps = vectors >= kManyVectors && LoadedBytes() * vector < kBytesOnTheirWay ? 2 : 1;
    plan_.steps = Shifted(steps, change_.steps, 1, kMaxSteps);
    plan_.blocks = CeilDiv(vectors, int64_t{plan_.threads} * plan_.steps);
  }

  // --- tiles ---

  // Some load takes a dimension in steps along which another dimension has its neighbours: each access of its memory
  // would use one element of it.
  bool PlanTiles() {
    const size_t inner = kernel_.dims.size() - 1;
    for (plan_.along = 0; plan_.along < inner; ++plan_.along) {
      if (StageAlong(plan_.along)) break;
    }
    if (plan_.along == inner) return false;
    const int64_t columns = kernel_.inner_size(), rows = kernel_.dims[plan_.along].size;
    if (columns < kWarp || rows < kWarp || kernel_.row_count() * columns < kFewTileElements) return false;
    ChooseVectors(1);
    plan_.spread = Spread::kTiles;
    plan_.tile = Shifted(StagedBytes(2 * kWarp) <= kSharedBytes ? 2 * kWarp : kWarp, std::min(change_.tile, 0), kWarp,
                         2 * kWarp);
    if (StagedBytes(plan_.tile) > kSharedBytes) return false;
    plan_.rows_per_block = Shifted(plan_.tile / kTileTurns, change_.threads, 1, kMaxLanes / kWarp);
    plan_.threads = plan_.rows_per_block * kWarp;
    const int64_t squares = CeilDiv(columns, plan_.tile) * CeilDiv(rows, plan_.tile);
    plan_.blocks = kernel_.row_count() / rows * squares;
    return true;
  }

  bool StageAlong(size_t along) {
    plan_.staged.assign(kernel_.accesses.size(), false);
    bool any = false;
    ForEachElementAccess([&](const Node& node) {
      const std::vector<int64_t>& strides = AccessOf(node).strides;
      if (node.op != Op::kLoad || std::abs(strides.back()) <= 1 || strides[along] != 1) return;
      plan_.staged[static_cast<size_t>(node.attr)] = any = true;
    });
    return any;
  }

  int64_t StagedBytes(int tile) const {
    int64_t bytes = 0;
    for (size_t a = 0; a < kernel_.accesses.size(); ++a) {
      const auto buffer = static_cast<size_t>(kernel_.accesses[a].buffer);
      if (plan_.staged[a]) bytes += TileBytes(tile, kernel_.buffers[buffer].dtype);
    }
    return bytes;
  }

  // --- rows ---

  // Bytes of one element of each value that a resident row would keep: what it loads.
  int64_t LoadedBytes() const {
    int64_t bytes = 0;
    for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
      if (kernel_.nodes[id].op == Op::kLoad && schedule_.is_element[id]) {
        bytes += loop::DTypeBytes(kernel_.nodes[id].dtype);
      }
    }
    return bytes;
  }

  void PlanRows() {
    int vector = VectorOf();
    while (kernel_.inner_size() % vector != 0) vector /= 2;
    ChooseVectors(vector);
    plan_.spread = Spread::kRows;
    const int64_t vectors = std::max<int64_t>(1, kernel_.inner_size() / vector);
    plan_.lanes = PowerOfTwoAtLeast(CeilDiv(vectors, kVectorsOfLane), kMaxLanes);
    // Few rows: more lanes each, down to one vector a lane, so that the whole GPU has work.
    while (plan_.lanes < kMaxLanes && plan_.lanes < vectors && kernel_.row_count() * plan_.lanes < kFewThreads) {
      plan_.lanes *= 2;
    }
    plan_.lanes = Shifted(plan_.lanes, change_.lanes, 1, PowerOfTwoAtLeast(vectors, kMaxLanes));
    SetSteps(vectors, vector);
    const int threads = Shifted(kRowThreads, change_.threads, kWarp, kMaxLanes);
    plan_.rows_per_block = plan_.lanes <= kWarp ? threads / plan_.lanes : 1;  // a barrier is for one row
    plan_.threads = plan_.lanes * plan_.rows_per_block;
    plan_.blocks = CeilDiv(kernel_.row_count(), plan_.rows_per_block);
  }

  // Keeps rows in registers where that is asked of few enough of them, with more lanes if need be.
  void SetSteps(int64_t vectors, int vector) {
    const bool passes = schedule_.passes.size() > 1 && !schedule_.passes[1].elements.empty();
    const auto bytes = [&] { return CeilDiv(vectors, plan_.lanes) * vector * LoadedBytes(); };
    while (passes && bytes() > kResidentBytes && plan_.lanes < kMaxLanes) plan_.lanes *= 2;
    plan_.steps = static_cast<int>(std::min<int64_t>(CeilDiv(vectors, plan_.lanes), INT32_MAX));
    plan_.resident = passes && bytes() <= kResidentBytes;
    if (plan_.resident) plan_.kept_bytes = plan_.lanes < kMaxLanes ? kResidentBytes : kResidentBytes / 2;
  }

  // --- columns ---

  bool RunsAlongColumns() const {
    if (kernel_.dims.size() < 2 || kernel_.dims[kernel_.dims.size() - 2].size < kMinColumns) return false;
    bool along = false, against = false;
    for (size_t id = 0; id < kernel_.nodes.size(); ++id) {
      if (!IsElementAccess(id)) continue;
      const std::vector<int64_t>& strides = AccessOf(kernel_.nodes[id]).strides;
      against = against || strides.back() == 1;
      along = along || strides[strides.size() - 2] == 1;
    }
    return along && !against;
  }

  void PlanColumns() {
    ChooseVectors(1);
    plan_.spread = Spread::kColumns;
    plan_.rows_per_block = kColumnsOfBlock;
    plan_.lanes = Shifted(PowerOfTwoAtLeast(CeilDiv(kernel_.inner_size(), kVectorsOfLane), kMaxColumnLanes),
                          change_.lanes, 1, PowerOfTwoAtLeast(kernel_.inner_size(), kMaxColumnLanes));
    while (plan_.lanes > 1 && SharedBytes() > kSharedBytes) plan_.lanes /= 2;
    plan_.steps = static_cast<int>(std::min<int64_t>(CeilDiv(kernel_.inner_size(), plan_.lanes), INT32_MAX));
    const bool passes = schedule_.passes.size() > 1 && !schedule_.passes[1].elements.empty();
    plan_.resident = passes && plan_.steps * LoadedBytes() <= kResidentBytes;
    if (plan_.resident) plan_.kept_bytes = kResidentBytes / 2;
    plan_.threads = plan_.lanes * kColumnsOfBlock;
    plan_.blocks = CeilDiv(kernel_.row_count(), kColumnsOfBlock);
  }

  int64_t SharedBytes() const {
    int64_t bytes = 0;
    for (const Node& node : kernel_.nodes) {
      if (loop::IsReduction(node.op)) bytes += loop::DTypeBytes(node.dtype) * kColumnsOfBlock * plan_.lanes;
    }
    return bytes;
  }

  static constexpr int kRowThreads = 128;          // of a block that computes several rows
  static constexpr int64_t kFewThreads = 1 << 16;  // about a quarter of what a large GPU runs at once

  const Kernel& kernel_;
  const loop::Schedule schedule_;
  const int max_vector_;
  const PlanChange change_;
  LaunchPlan plan_;
};

}  // namespace

int TilePitch(int tile, loop::DType dtype) {
  return tile + std::max<int>(1, kBankBytes / static_cast<int>(loop::DTypeBytes(dtype)));
}

int LaunchPlan::AlignmentOf(const Kernel& kernel, int32_t buffer) const {
  const int64_t item = loop::DTypeBytes(kernel.buffers[static_cast<size_t>(buffer)].dtype);
  int64_t alignment = item;
  for (size_t a = 0; a < kernel.accesses.size(); ++a) {
    if (kernel.accesses[a].buffer == buffer && vectorised[a])
      alignment = std::min<int64_t>(kVectorBytes, vector * item);
  }
  return static_cast<int>(alignment);
}

void Canonicalize(Kernel& kernel) {
  loop::Canonicalize(kernel, /*tiles=*/false);
  if (PlanLaunch(kernel).spread != Spread::kTiles) loop::Canonicalize(kernel);
}

LaunchPlan PlanLaunch(const Kernel& kernel, int max_vector, PlanChange change) {
  return Planner(kernel, max_vector, change).Run();
}

std::vector<PlanChange> ChangesToTry(const Kernel& kernel) {
  std::vector<PlanChange> all = {{}};
  for (const int tile : {0, -1}) {
    for (const int threads : {-1, 0, 1}) {
      for (const int steps : {-1, 0, 1}) all.push_back({.threads = threads, .steps = steps, .tile = tile});
    }
  }
  for (const int lanes : {-2, -1, 1, 2}) all.push_back({.lanes = lanes});
  std::vector<PlanChange> tried;
  absl::flat_hash_set<std::string> plans;
  for (const PlanChange& change : all) {
    if (plans.insert(Print(PlanLaunch(kernel, 16, change))).second) tried.push_back(change);
  }
  return tried;
}

loop::OpenPlaces PlacesOf(const Kernel& kernel, const LaunchPlan& plan, bool inner) {
  loop::OpenPlaces places{std::vector<loop::OpenPlaces::Along>(kernel.dims.size()), false};
  if (plan.spread == Spread::kTiles) return places;
  places.offsets = true;
  std::fill(places.dims.begin(), places.dims.end() - 1, loop::OpenPlaces::Along{true, true});
  places.dims.back().size = inner || plan.spread == Spread::kElements;
  places.dims.back().strides = plan.spread == Spread::kColumns;
  return places;
}

namespace {

std::string SpreadText(const LaunchPlan& plan) {
  switch (plan.spread) {
    case Spread::kElements:
      return "elements";
    case Spread::kTiles:
      return "tiles";
    case Spread::kRows:
      return "rows";
    case Spread::kColumns:
      return "columns";
  }
  return "";
}

// Behind the number of blocks.
std::string ShapeText(const LaunchPlan& plan) {
  std::string text = absl::StrCat(plan.threads, " threads");
  if (plan.spread == Spread::kTiles) return absl::StrCat(text, ", ", plan.tile, " x ", plan.tile, " elements");
  if (plan.spread != Spread::kElements) {
    absl::StrAppend(&text, ", ", plan.rows_per_block, " rows x ", plan.lanes, " lanes");
  }
  absl::StrAppend(&text, ", vectors of ", plan.vector, ", ", plan.steps, plan.steps == 1 ? " step" : " steps");
  if (plan.resident) text += " in registers";
  if (plan.wide_index) text += ", 64-bit offsets";
  return text;
}

}  // namespace

std::string PrintClass(const LaunchPlan& plan) {
  std::string text = absl::StrCat(SpreadText(plan), ": blocks of ", ShapeText(plan), ", accesses");
  for (const bool vectorised : plan.vectorised) text += vectorised ? " v" : " -";
  return text;
}

std::string Print(const LaunchPlan& plan) {
  return absl::StrCat(SpreadText(plan), ": ", plan.blocks, " blocks of ", ShapeText(plan));
}

}  // namespace framejit::cuda
