// Which intermediate values of a plan have memory of their own, apart from the arena.
#ifndef FRAMEJIT_BACKENDS_NATIVE_OWN_MEMORY_H_
#define FRAMEJIT_BACKENDS_NATIVE_OWN_MEMORY_H_

#include <cstdint>
#include <vector>

namespace framejit::native {

// A value in memory that a plan provides, by the units (steps of execution) that make it and use it last.
struct Lifetime {
  int32_t made = 0;
  int32_t last = 0;
  int64_t bytes = 0;
  bool returned = false;  // the caller's from `made` on
};

// An arena is as large as it ever has to be until the call ends, so that what a forward saves and what its backward
// returns add up, though the one dies while the other is made. By value: whether it is worth an allocation of its own,
// which gives its memory back after `last`. All false where that would not lower the most memory that is in use, or
// where the arena is small.
std::vector<bool> FindOwnMemory(const std::vector<Lifetime>& values, int32_t unit_count);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_OWN_MEMORY_H_
