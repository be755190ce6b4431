#include "backends/native/arena.h"

#include <algorithm>

namespace framejit::native {

int64_t ArenaPlanner::Allocate(int64_t bytes) {
  bytes = std::max(kAlignment, RoundUp(bytes));
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second >= bytes && (best == free_.end() || it->second < best->second)) best = it;
  }
  if (best == free_.end()) {
    // A free range at the end grows instead of being left behind.
    int64_t offset = size_;
    if (!free_.empty()) {
      auto last = std::prev(free_.end());
      if (last->first + last->second == size_) {
        offset = last->first;
        free_.erase(last);
      }
    }
    size_ = offset + bytes;
    return offset;
  }
  int64_t offset = best->first, rest = best->second - bytes;
  free_.erase(best);
  if (rest > 0) free_[offset + bytes] = rest;
  return offset;
}

void ArenaPlanner::Free(int64_t offset, int64_t bytes) {
  bytes = std::max(kAlignment, RoundUp(bytes));
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && offset + bytes == next->first) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      previous->second += bytes;
      return;
    }
  }
  free_[offset] = bytes;
}

}  // namespace framejit::native
