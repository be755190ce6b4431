#include "bytecode/opcodes.h"

#include <array>
#include <bit>

namespace framejit {
namespace {

constexpr int BitCount(int bits) { return std::popcount(static_cast<unsigned>(bits)); }

constexpr std::array<OpcodeInfo, 256> BuildInfo() {
  std::array<OpcodeInfo, 256> info{};
#define OPCODE(name, number, operand, caches, flow, raises, pops, pushes) \
  info[number] = { #name, OperandKind::operand, caches, ControlFlow::flow, raises != 0 };
#define OPCODE_BRANCH(name, number, operand, caches, raises, pops, pushes, taken_pops, taken_pushes) \
  info[number] = { #name, OperandKind::operand, caches, ControlFlow::kBranch, raises != 0 };
#include FRAMEJIT_OPCODE_TABLE
#undef OPCODE
#undef OPCODE_BRANCH
  return info;
}
constexpr std::array<OpcodeInfo, 256> kInfo = BuildInfo();

// Every jump has a jump operand and nothing else has one.
constexpr bool JumpsHaveTargets() {
  for (const OpcodeInfo& info : kInfo) {
    const bool jumps = info.flow == ControlFlow::kJump || info.flow == ControlFlow::kBranch;
    if (jumps != IsJump(info.operand)) return false;
  }
  return true;
}
static_assert(JumpsHaveTargets());

}  // namespace

const OpcodeInfo& InfoOf(Opcode opcode) { return kInfo[static_cast<uint8_t>(opcode)]; }

std::optional<Opcode> FindOpcode(std::string_view name) {
  for (int number = 0; number < static_cast<int>(kInfo.size()); ++number) {
    if (!name.empty() && kInfo[number].name == name) return static_cast<Opcode>(number);
  }
  return std::nullopt;
}

StackEffect StackEffectOf(Opcode opcode, int oparg, bool taken) {
  switch (opcode) {
#define OPCODE(name, number, operand, caches, flow, raises, pops, pushes) \
  case Opcode::k_##name:                                                  \
    return {pops, pushes};
#define OPCODE_BRANCH(name, number, operand, caches, raises, pops, pushes, taken_pops, taken_pushes) \
  case Opcode::k_##name:                                                                             \
    return taken ? StackEffect{taken_pops, taken_pushes} : StackEffect{pops, pushes};
#include FRAMEJIT_OPCODE_TABLE
#undef OPCODE
#undef OPCODE_BRANCH
  }
  return {0, 0};
}

std::string_view OperandKindName(OperandKind kind) {
  switch (kind) {
#define OPERAND(kind, description) \
  case OperandKind::kind:          \
    return #kind;
#include "bytecode/opcodes/operands.def"
#undef OPERAND
  }
  return "";
}

std::string_view OperandKindDescription(OperandKind kind) {
  switch (kind) {
#define OPERAND(kind, description) \
  case OperandKind::kind:          \
    return description;
#include "bytecode/opcodes/operands.def"
#undef OPERAND
  }
  return "";
}

}  // namespace framejit
