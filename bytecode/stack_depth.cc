#include "bytecode/stack_depth.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace framejit {
namespace {

class DepthAnalysis {
 public:
  explicit DepthAnalysis(const DecodedCode& code) : code_(code) { depths_.before.assign(code.size(), -1); }

  absl::StatusOr<StackDepths> Run() {
    Reach(0, 0);
    while (!pending_.empty() && status_.ok()) {
      const int index = pending_.back();
      pending_.pop_back();
      Visit(index);
    }
    if (!status_.ok()) return status_;
    return std::move(depths_);
  }

 private:
  void Fail(int index, const std::string& what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat("code unit ", code_[index].offset, " (", std::string(code_[index].info().name), "): ", what));
  }

  void Reach(int index, int depth) {
    int& before = depths_.before[index];
    if (before == depth) return;
    if (before >= 0) return Fail(index, absl::StrCat("reached with stack depths ", before, " and ", depth));
    before = depth;
    depths_.max = std::max(depths_.max, depth);
    pending_.push_back(index);
  }

  void Visit(int index) {
    const Instruction& instruction = code_[index];
    const int depth = depths_.before[index];
    const ControlFlow flow = instruction.info().flow;
    VisitHandler(index, depth);
    if (FallsThrough(flow) && index + 1 < code_.size()) Follow(index, depth, /*taken=*/false, index + 1);
    if (instruction.target >= 0) Follow(index, depth, /*taken=*/true, instruction.target);
    if (flow != ControlFlow::kReturn && flow != ControlFlow::kRaise) return;
    const StackEffect effect = StackEffectOf(instruction.opcode, instruction.oparg, false);
    if (depth < effect.pops) return Underflow(index, depth, effect.pops);
    if (flow == ControlFlow::kReturn && depth != effect.pops) Fail(index, "returns with values left on the stack");
  }

  void Follow(int index, int depth, bool taken, int next) {
    const StackEffect effect = StackEffectOf(code_[index].opcode, code_[index].oparg, taken);
    if (depth < effect.pops) return Underflow(index, depth, effect.pops);
    Reach(next, depth + effect.net());
  }

  void Underflow(int index, int depth, int needed) {
    Fail(index, absl::StrCat("needs ", needed, " values, the stack holds ", depth));
  }

  void VisitHandler(int index, int depth) {
    const ExceptionEntry* entry = code_.HandlerOf(code_[index]);
    if (entry == nullptr) return;
    if (entry->depth > depth) {
      return Fail(index, absl::StrCat("its handler keeps ", entry->depth, " values, the stack holds ", depth));
    }
    Reach(code_.IndexStarting(entry->target), entry->depth + (entry->push_lasti ? 1 : 0) + 1);
  }

  const DecodedCode& code_;
  StackDepths depths_;
  std::vector<int> pending_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<StackDepths> ComputeStackDepths(const DecodedCode& code) { return DepthAnalysis(code).Run(); }

}  // namespace framejit
