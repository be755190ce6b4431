// Offsets of intermediate values in one block of memory, handed out and taken back in execution order.
#ifndef FRAMEJIT_BACKENDS_NATIVE_ARENA_H_
#define FRAMEJIT_BACKENDS_NATIVE_ARENA_H_

#include <cstdint>
#include <map>

namespace framejit::native {

class ArenaPlanner {
 public:
  static constexpr int64_t kAlignment = 64;

  // The smallest free range that fits, else the end of the arena.
  int64_t Allocate(int64_t bytes);
  void Free(int64_t offset, int64_t bytes);
  int64_t size() const { return size_; }

 private:
  static int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  std::map<int64_t, int64_t> free_;  // offset -> bytes; neighbours are merged
  int64_t size_ = 0;
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_ARENA_H_
