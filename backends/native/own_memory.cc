#include "backends/native/own_memory.h"

#include <algorithm>

namespace framejit::native {
namespace {

// What lives for fewer units, or is smaller, is left to the arena.
constexpr int32_t kLongUnits = 32;
constexpr int64_t kLargeBytes = int64_t{64} << 10;
constexpr int64_t kSmallArenaBytes = int64_t{16} << 20;
// An allocation costs time: it has to lower the peak by more than one part in this many.
constexpr int64_t kLeastGain = 50;

struct Peak {
  int64_t arena = 0;
  int64_t others = 0;
  int64_t total() const { return arena + others; }
};

Peak PeakOf(const std::vector<Lifetime>& values, int32_t unit_count, const std::vector<bool>& own) {
  std::vector<int64_t> arena(static_cast<size_t>(unit_count) + 1), others(static_cast<size_t>(unit_count) + 1);
  for (size_t i = 0; i < values.size(); ++i) {
    const Lifetime& value = values[i];
    std::vector<int64_t>& change = value.returned || own[i] ? others : arena;
    change[static_cast<size_t>(value.made)] += value.bytes;
    if (!value.returned && value.last < unit_count) change[static_cast<size_t>(value.last) + 1] -= value.bytes;
  }
  Peak peak;
  int64_t in_arena = 0, beside = 0;
  for (size_t unit = 0; unit < arena.size(); ++unit) {
    peak.arena = std::max(peak.arena, in_arena += arena[unit]);
    peak.others = std::max(peak.others, beside += others[unit]);
  }
  return peak;
}

}  // namespace

std::vector<bool> FindOwnMemory(const std::vector<Lifetime>& values, int32_t unit_count) {
  const std::vector<bool> none(values.size(), false);
  const Peak without = PeakOf(values, unit_count, none);
  if (without.arena <= kSmallArenaBytes) return none;
  std::vector<bool> own(values.size(), false);
  for (size_t i = 0; i < values.size(); ++i) {
    const Lifetime& value = values[i];
    own[i] = !value.returned && value.last < unit_count && value.last - value.made > kLongUnits &&
             value.bytes >= kLargeBytes;
  }
  const int64_t gain = without.total() - PeakOf(values, unit_count, own).total();
  return gain > without.total() / kLeastGain ? own : none;
}

}  // namespace framejit::native
