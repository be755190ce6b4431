#include "bytecode/liveness.h"

#include <algorithm>

namespace framejit {
namespace {

constexpr int kPairShift = 4;  // kLocalLoadLoad and its kin: two slots of four bits
constexpr int kPairMask = 15;

}  // namespace

SlotAccess SlotAccessOf(const Instruction& instruction) {
  const int oparg = instruction.oparg;
  const int high = oparg >> kPairShift;
  const int low = oparg & kPairMask;
  switch (instruction.info().operand) {
    case OperandKind::kLocalLoad:
    case OperandKind::kCellLoad:
    case OperandKind::kCellStore:
    case OperandKind::kCellDelete:
    case OperandKind::kCellClosure:
      return {.reads = {oparg, -1}};
    case OperandKind::kLocalStore:
      return {.writes = {oparg, -1}};
    case OperandKind::kLocalDelete:
    case OperandKind::kLocalLoadClear:
    case OperandKind::kCellMake:
      return {.reads = {oparg, -1}, .writes = {oparg, -1}};
    case OperandKind::kLocalLoadLoad:
      return {.reads = {high, low}};
    case OperandKind::kLocalStoreLoad:
      return {.reads = {low, -1}, .writes = {high, -1}, .writes_first = true};
    case OperandKind::kLocalStoreStore:
      return {.writes = {high, low}};
    case OperandKind::kNone:
    case OperandKind::kConst:
    case OperandKind::kName:
    case OperandKind::kNameAndFlag:
    case OperandKind::kNameAndTwoFlags:
    case OperandKind::kFreeCount:
    case OperandKind::kJumpForward:
    case OperandKind::kJumpBackward:
    case OperandKind::kCompare:
    case OperandKind::kCompareShift4:
    case OperandKind::kCompareShift5:
    case OperandKind::kBinaryOp:
    case OperandKind::kArgc:
    case OperandKind::kCount:
    case OperandKind::kUnpackEx:
    case OperandKind::kStackIndex:
    case OperandKind::kInvert:
    case OperandKind::kFlags:
    case OperandKind::kIntrinsic:
    case OperandKind::kExtended:
    case OperandKind::kOther:
      break;
  }
  return {};
}

Liveness::Liveness(const DecodedCode& code, const Cfg& cfg, int slot_count)
    : slot_count_(slot_count), words_((slot_count + kWordBits - 1) / kWordBits) {
  before_.assign(static_cast<size_t>(code.size()) * words_, 0);
  current_.assign(words_, 0);
  for (bool changed = true; changed;) {
    changed = false;
    for (auto block = cfg.blocks().rbegin(); block != cfg.blocks().rend(); ++block) {
      changed |= VisitBlock(code, cfg, *block);
    }
  }
}

bool Liveness::VisitBlock(const DecodedCode& code, const Cfg& cfg, const BasicBlock& block) {
  std::fill(current_.begin(), current_.end(), Word{0});
  for (int successor : block.successors) Unite(cfg.blocks()[successor].begin);
  bool changed = false;
  for (int index = block.end - 1; index >= block.begin; --index) changed |= VisitInstruction(code, cfg, block, index);
  return changed;
}

bool Liveness::VisitInstruction(const DecodedCode& code, const Cfg& cfg, const BasicBlock& block, int index) {
  Transfer(code[index]);
  if (block.handler >= 0 && code[index].info().raises) Unite(cfg.blocks()[block.handler].begin);
  auto stored = before_.begin() + static_cast<ptrdiff_t>(index) * words_;
  if (std::equal(current_.begin(), current_.end(), stored)) return false;
  std::copy(current_.begin(), current_.end(), stored);
  return true;
}

void Liveness::Transfer(const Instruction& instruction) {
  auto word = [this](int slot) -> Word& { return current_[slot / kWordBits]; };
  auto bit = [](int slot) { return Word{1} << (slot % kWordBits); };
  const SlotAccess access = SlotAccessOf(instruction);
  auto read = [&] {
    for (int slot : access.reads) {
      if (slot >= 0 && slot < slot_count_) word(slot) |= bit(slot);
    }
  };
  // Backwards: what the instruction does first is applied last.
  if (access.writes_first) read();
  for (int slot : access.writes) {
    if (slot >= 0 && slot < slot_count_) word(slot) &= ~bit(slot);
  }
  if (!access.writes_first) read();
  if (instruction.info().operand == OperandKind::kFreeCount) {
    for (int slot = std::max(0, slot_count_ - instruction.oparg); slot < slot_count_; ++slot) word(slot) &= ~bit(slot);
  }
}

void Liveness::Unite(int instruction) {
  for (int i = 0; i < words_; ++i) current_[i] |= before_[static_cast<size_t>(instruction) * words_ + i];
}

std::vector<int> Liveness::SlotsLiveBefore(int instruction) const {
  std::vector<int> slots;
  for (int slot = 0; slot < slot_count_; ++slot) {
    if (IsLiveBefore(instruction, slot)) slots.push_back(slot);
  }
  return slots;
}

}  // namespace framejit
