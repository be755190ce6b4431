// The opcodes of the running CPython minor, from bytecode/opcodes/v3_NN.def: enum, names, operand kinds, stack effects,
// control flow. Every fact comes from that table.
//
// Columns of a row:
//   name, number      as in dis.opmap
//   operand           what the oparg means (bytecode/opcodes/operands.def)
//   caches            inline-cache code units that follow the instruction
//   flow              where control goes next; OPCODE_BRANCH rows are kBranch
//   raises            whether an exception can surface at the instruction: a failure of its own, a signal handler where
//                     the evaluator looks for one, or throw() into a suspended generator
//   pops, pushes      values taken from and left on the stack, as functions of `oparg`. Values that are looked at in
//                     place count as popped and pushed, so `pops` is also the depth the instruction needs.
#ifndef FRAMEJIT_BYTECODE_OPCODES_H_
#define FRAMEJIT_BYTECODE_OPCODES_H_

#include <Python.h>

#include <cstdint>
#include <optional>
#include <string_view>

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
#define FRAMEJIT_OPCODE_TABLE "bytecode/opcodes/v3_11.def"
#elif PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
#define FRAMEJIT_OPCODE_TABLE "bytecode/opcodes/v3_12.def"
#elif PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
#define FRAMEJIT_OPCODE_TABLE "bytecode/opcodes/v3_13.def"
#define FRAMEJIT_NULL_ABOVE_CALLABLE
#else
#error "no opcode table for this CPython; 3.11, 3.12 and 3.13 have one"
#endif

namespace framejit {

// k_LOAD_FAST and so on: the prefix keeps clear of the macros of CPython's <opcode.h>.
enum class Opcode : uint8_t {
#define OPCODE(name, number, operand, caches, flow, raises, pops, pushes) k_##name = number,
#define OPCODE_BRANCH(name, number, operand, caches, raises, pops, pushes, taken_pops, taken_pushes) k_##name = number,
#include FRAMEJIT_OPCODE_TABLE
#undef OPCODE
#undef OPCODE_BRANCH
};

enum class OperandKind : uint8_t {
#define OPERAND(kind, description) kind,
#include "bytecode/opcodes/operands.def"
#undef OPERAND
};

enum class ControlFlow : uint8_t {
  kNext,    // falls through
  kJump,    // always jumps
  kBranch,  // falls through or jumps
  kYield,   // leaves the frame; falls through when resumed
  kReturn,  // leaves the frame for good
  kRaise,   // always raises
};

struct OpcodeInfo {
  std::string_view name;  // empty: no such opcode
  OperandKind operand;
  uint8_t caches;
  ControlFlow flow;
  bool raises;
};

// Where a call's NULL sits that stands for the missing `self`: below the callable, or between it and the arguments.
#ifdef FRAMEJIT_NULL_ABOVE_CALLABLE
inline constexpr bool kNullAboveCallable = true;
#else
inline constexpr bool kNullAboveCallable = false;
#endif
// Opcode and oparg byte.
inline constexpr int kCodeUnitBytes = 2;
// Operands of kBinaryOp are below this (NB_* in CPython's opcode.h), comparisons below that (Py_LT to Py_GE).
inline constexpr int kBinaryOperatorCount = 26;
inline constexpr int kComparisonCount = 6;

// Of any number; the name of a number that is no opcode is empty.
const OpcodeInfo& InfoOf(Opcode opcode);
inline bool IsOpcode(uint8_t number) { return !InfoOf(static_cast<Opcode>(number)).name.empty(); }
// The opcode of that name; nothing when this minor has none.
std::optional<Opcode> FindOpcode(std::string_view name);
std::string_view OperandKindName(OperandKind kind);
std::string_view OperandKindDescription(OperandKind kind);

struct StackEffect {
  int pops;
  int pushes;

  int net() const { return pushes - pops; }
};
// `taken`: the jump of a kBranch is taken. Requires an opcode of the table.
StackEffect StackEffectOf(Opcode opcode, int oparg, bool taken);

constexpr bool IsJump(OperandKind kind) {
  return kind == OperandKind::kJumpForward || kind == OperandKind::kJumpBackward;
}
// Whether control can go on at the next instruction.
constexpr bool FallsThrough(ControlFlow flow) {
  return flow == ControlFlow::kNext || flow == ControlFlow::kBranch || flow == ControlFlow::kYield;
}

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_OPCODES_H_
