#include "bytecode/reentry.h"

#include <algorithm>
#include <utility>

namespace framejit {
namespace {

bool Is(const Instruction& instruction, std::string_view name) { return instruction.info().name == name; }

// Where a FOR_ITER with that target really goes when it is exhausted: END_FOR stands for popping the iterator and, in
// 3.12, the value that is not there; in 3.13 a POP_TOP does half of it.
int AfterExhausted(const DecodedCode& code, int target) {
  if (!Is(code[target], "END_FOR")) return target;
  const StackEffect effect = StackEffectOf(code[target].opcode, code[target].oparg, false);
  return target + (effect.pops == 1 ? 2 : 1);
}

bool IsBehindEndFor(const DecodedCode& code, int index) {
  return index > 0 && Is(code[index - 1], "END_FOR") && Is(code[index], "POP_TOP") &&
         AfterExhausted(code, index - 1) == index + 1;
}

}  // namespace

std::string_view ReentryRefusalName(ReentryRefusal refusal) {
  switch (refusal) {
#define REENTRY_REFUSAL(name, reason) \
  case ReentryRefusal::name:          \
    return #name;
#include "bytecode/reentry_refusals.def"
#undef REENTRY_REFUSAL
  }
  return "";
}

std::string_view ReentryRefusalReason(ReentryRefusal refusal) {
  switch (refusal) {
#define REENTRY_REFUSAL(name, reason) \
  case ReentryRefusal::name:          \
    return reason;
#include "bytecode/reentry_refusals.def"
#undef REENTRY_REFUSAL
  }
  return "";
}

absl::StatusOr<Reentries> Reentries::Analyze(const DecodedCode& code) {
  absl::StatusOr<StackDepths> depths = ComputeStackDepths(code);
  if (!depths.ok()) return depths.status();
  return Reentries(code, *std::move(depths));
}

Reentries::Reentries(const DecodedCode& code, StackDepths depths)
    : code_(code),
      depths_(std::move(depths)),
      exceptions_(code),
      in_send_(code.size(), false),
      starts_handler_(code.size(), false) {
  for (const ExceptionEntry& entry : code.exception_table()) starts_handler_[code.IndexStarting(entry.target)] = true;
  for (int i = 0; i < code.size(); ++i) {
    if (resume_ < 0 && Is(code[i], "RESUME")) resume_ = i;
    if (Is(code[i], "SEND")) std::fill(in_send_.begin() + i, in_send_.begin() + code[i].target, true);
    if (Is(code[i], "END_SEND")) in_send_[i] = true;
  }
  for (int i = 0; i < code.size(); ++i) refusals_.push_back(Judge(i));
}

ReentryRefusal Reentries::Judge(int index) const {
  if (DepthAt(index) < 0) return ReentryRefusal::kUnreachable;
  if (resume_ < 0 || index <= resume_) return ReentryRefusal::kPrefix;
  const Instruction& previous = code_[index - 1];
  if (Is(previous, "KW_NAMES") || Is(previous, "PRECALL")) return ReentryRefusal::kCall;
  if (Is(code_[index], "END_FOR") || IsBehindEndFor(code_, index)) return ReentryRefusal::kEndFor;
  if (in_send_[index]) return ReentryRefusal::kSend;
  if (previous.info().flow == ControlFlow::kYield) return ReentryRefusal::kAfterYield;
  if (starts_handler_[index]) return ReentryRefusal::kHandler;
  if (!exceptions_.SavedAt(index)) return ReentryRefusal::kUnknownExceptions;
  if (!exceptions_.FitsHandler(index)) return ReentryRefusal::kUncovered;
  return ReentryRefusal::kNone;
}

std::vector<int> Reentries::Legal() const {
  std::vector<int> legal;
  for (int i = 0; i < code_.size(); ++i) {
    if (IsLegal(i)) legal.push_back(i);
  }
  return legal;
}

std::vector<int> Reentries::LegalAfter(int index) const {
  std::vector<int> found;
  std::vector<bool> seen(code_.size(), false);
  std::vector<int> pending = Successors(code_, index);
  while (!pending.empty()) {
    const int next = pending.back();
    pending.pop_back();
    if (seen[next]) continue;
    seen[next] = true;
    if (IsLegal(next)) {
      found.push_back(next);
      continue;
    }
    const std::vector<int> further = Successors(code_, next);
    pending.insert(pending.end(), further.begin(), further.end());
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool IsLegalReentry(const DecodedCode& code, int index) {
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(code);
  return reentries.ok() && index >= 0 && index < code.size() && reentries->IsLegal(index);
}

std::vector<int> Successors(const DecodedCode& code, int index) {
  const Instruction& instruction = code[index];
  std::vector<int> next;
  if (FallsThrough(instruction.info().flow) && index + 1 < code.size()) next.push_back(index + 1);
  if (instruction.target >= 0) {
    const bool iterates = Is(instruction, "FOR_ITER");
    const int target = iterates ? AfterExhausted(code, instruction.target) : instruction.target;
    if (target < code.size() && std::find(next.begin(), next.end(), target) == next.end()) next.push_back(target);
  }
  return next;
}

}  // namespace framejit
