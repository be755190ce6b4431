// One guard, as the recorder collects them. Compiled into a GuardProgram (guard_program.h).
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/source.h"

namespace framejit {

enum class GuardCost : uint8_t { kFree, kCheap, kTensor, kState };

enum class GuardKind : uint8_t {
#define GUARD(kind, operands, cost, message) k##kind,
#include "frame_eval/guards/guards.def"
#undef GUARD
};

std::string_view GuardKindName(GuardKind kind);
GuardCost GuardKindCost(GuardKind kind);

struct Guard {
  GuardKind kind;
  SourceId source = kNoSource;
  PyRef payload;               // what guards.def says for this kind
  int64_t number = 0;          // LengthIs, TensorMatches
  SourceId other = kNoSource;  // SameObject, NotSameObject
};

// The guards of one recording in the order in which the facts were read, without duplicates.
class GuardList {
 public:
  // Returns false where an equal guard is already there. Payloads are compared by identity, except ConstantIs,
  // KeyPresent and KeyAbsent, whose sources make a second payload impossible or whose keys are interned.
  bool Add(Guard guard);
  const std::vector<Guard>& guards() const { return guards_; }

 private:
  struct Key {
    uint8_t kind;
    SourceId source;
    SourceId other;
    int64_t number;
    PyObject* payload;
    bool operator==(const Key& o) const {
      return kind == o.kind && source == o.source && other == o.other && number == o.number && payload == o.payload;
    }
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) {
      return H::combine(std::move(h), k.kind, k.source, k.other, k.number, k.payload);
    }
  };
  std::vector<Guard> guards_;
  absl::flat_hash_map<Key, int> seen_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_H_
