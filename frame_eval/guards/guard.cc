// The guard table's names, and the list that keeps guards unique.
#include "frame_eval/guards/guard.h"

namespace framejit {
namespace {

struct GuardRow {
  std::string_view name;
  GuardCost cost;
};

constexpr GuardRow kGuardRows[] = {
#define GUARD(kind, operands, cost, message) {#kind, GuardCost::cost},
#include "frame_eval/guards/guards.def"
#undef GUARD
};

}  // namespace

std::string_view GuardKindName(GuardKind kind) { return kGuardRows[static_cast<size_t>(kind)].name; }
GuardCost GuardKindCost(GuardKind kind) { return kGuardRows[static_cast<size_t>(kind)].cost; }

bool GuardList::Add(Guard guard) {
  PyObject* payload = guard.payload.get();
  // One tensor has one set of properties and one place one constant, so a second payload says the same.
  if (guard.kind == GuardKind::kTensorMatches || guard.kind == GuardKind::kConstantIs) payload = nullptr;
  Key key{static_cast<uint8_t>(guard.kind), guard.source, guard.other, guard.number, payload};
  auto [it, inserted] = seen_.try_emplace(key, static_cast<int>(guards_.size()));
  if (inserted) guards_.push_back(std::move(guard));
  return inserted;
}

}  // namespace framejit
