#include "bytecode/exception_state.h"

#include <algorithm>
#include <utility>

namespace framejit {
namespace {

constexpr int kOrdinary = -1;
constexpr int kLasti = -2;

bool IsSaved(int value) { return value >= 0; }

auto SavedCount(const std::vector<int>& state) { return std::count_if(state.begin(), state.end(), IsSaved); }

}  // namespace

ExceptionStates::ExceptionStates(const DecodedCode& code) : code_(code), before_(code.size()) {
  Reach(0, {Known::kOne, {}});
  while (!pending_.empty()) {
    const int index = pending_.back();
    pending_.pop_back();
    Visit(index);
  }
}

std::optional<std::vector<int>> ExceptionStates::SavedAt(int index) const {
  const Entry& entry = before_[index];
  if (entry.known != Known::kOne) return std::nullopt;
  std::vector<int> positions;
  for (auto saved = entry.state.begin(); saved != entry.state.end(); ++saved) {
    if (!IsSaved(*saved)) continue;
    if (std::find(entry.state.begin(), saved, *saved) != saved) return std::nullopt;
    positions.push_back(static_cast<int>(saved - entry.state.begin()));
  }
  return positions;
}

std::vector<int> ExceptionStates::LastisAt(int index) const {
  const State& state = before_[index].state;
  std::vector<int> positions;
  for (size_t i = 0; i < state.size(); ++i) {
    if (state[i] == kLasti) positions.push_back(static_cast<int>(i));
  }
  return positions;
}

bool ExceptionStates::FitsHandler(int index) const {
  const Entry& entry = before_[index];
  if (entry.known != Known::kOne) return false;
  const ExceptionEntry* handler = code_.HandlerOf(code_[index]);
  if (handler == nullptr) return SavedCount(entry.state) == 0;
  const Entry& at_handler = before_[code_.IndexStarting(handler->target)];
  const State kept = AtHandler(*handler, entry.state);
  return at_handler.known == Known::kOne && at_handler.state == kept && SavedCount(entry.state) == SavedCount(kept);
}

// Never, then one state, then conflict: three steps at most for each instruction, so the analysis ends.
void ExceptionStates::Reach(int index, const Entry& entry) {
  Entry& before = before_[index];
  if (before.known == Known::kConflict ||
      (before.known == Known::kOne && entry.known == Known::kOne && before.state == entry.state)) {
    return;
  }
  if (before.known == Known::kNever) {
    before = entry;
  } else {
    before = {Known::kConflict, {}};
  }
  pending_.push_back(index);
}

void ExceptionStates::Visit(int index) {
  const Instruction& instruction = code_[index];
  const Entry before = before_[index];
  const ExceptionEntry* handler = code_.HandlerOf(instruction);
  if (handler != nullptr && instruction.info().raises) {
    Entry at_handler = before;
    if (before.known == Known::kOne) at_handler.state = AtHandler(*handler, before.state);
    Reach(code_.IndexStarting(handler->target), at_handler);
  }
  if (FallsThrough(instruction.info().flow) && index + 1 < code_.size()) Follow(index, before, false, index + 1);
  if (instruction.target >= 0) Follow(index, before, true, instruction.target);
}

void ExceptionStates::Follow(int index, const Entry& before, bool taken, int next) {
  Entry after = before;
  if (before.known == Known::kOne) Apply(code_[index], index, taken, after.state);
  Reach(next, after);
}

void ExceptionStates::Apply(const Instruction& instruction, int index, bool taken, State& state) {
  const size_t position = static_cast<size_t>(instruction.oparg);
  switch (instruction.opcode) {
    case Opcode::k_PUSH_EXC_INFO:  // exception -> saved, exception
      state.insert(state.end() - 1, index);
      return;
    case Opcode::k_POP_EXCEPT: {
      // Copies of the value that stay on the stack are of no use any more.
      const int saved = state.back();
      state.pop_back();
      if (IsSaved(saved)) std::replace(state.begin(), state.end(), saved, kOrdinary);
      return;
    }
    case Opcode::k_COPY:
      state.push_back(state[state.size() - position]);
      return;
    case Opcode::k_SWAP:
      std::swap(state.back(), state[state.size() - position]);
      return;
    default:
      // What is popped and pushed again was looked at in place: no other instruction consumes a saved exception.
      const StackEffect effect = StackEffectOf(instruction.opcode, instruction.oparg, taken);
      state.resize(state.size() + effect.net(), kOrdinary);
  }
}

ExceptionStates::State ExceptionStates::AtHandler(const ExceptionEntry& handler, const State& state) {
  State kept(state.begin(), state.begin() + handler.depth);
  if (handler.push_lasti) kept.push_back(kLasti);
  kept.push_back(kOrdinary);  // the exception
  return kept;
}

}  // namespace framejit
