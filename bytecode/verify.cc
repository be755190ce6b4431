#include "bytecode/verify.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bytecode/liveness.h"
#include "bytecode/stack_depth.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

class Verifier {
 public:
  Verifier(const DecodedCode& decoded, PyCodeObject* code) : decoded_(decoded), code_(code) {}

  absl::Status Run() {
    FindCells();
    for (const Instruction& instruction : decoded_.instructions()) CheckOperand(instruction);
    const Instruction& last = decoded_[decoded_.size() - 1];
    if (FallsThrough(last.info().flow)) Report(last, "control runs off the end of the code");
    CheckExceptionTable();
    if (problems_.empty()) CheckStack();
    if (problems_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
  }

 private:
  void Report(const Instruction& instruction, const std::string& what) {
    problems_.push_back(
        absl::StrCat("code unit ", instruction.offset, " (", std::string(instruction.info().name), "): ", what));
  }

  void CheckRange(const Instruction& instruction, int value, Py_ssize_t limit, const char* what) {
    if (value < 0 || value >= limit) {
      Report(instruction, absl::StrCat(what, " ", value, " is outside 0..", static_cast<long>(limit) - 1));
    }
  }

  void CheckSlots(const Instruction& instruction) {
    const SlotAccess access = SlotAccessOf(instruction);
    for (const auto& slots : {access.reads, access.writes}) {
      for (int i = 0; i < 2; ++i) {
        if (slots[i] != -1) CheckRange(instruction, slots[i], code_->co_nlocalsplus, "slot");
      }
    }
  }

  // A slot holds a cell when the code object says so, or, from 3.12 on, when an inlined comprehension makes one in it.
  void FindCells() {
    for (int slot = 0; slot < code_->co_nlocalsplus; ++slot) {
      holds_cell_.push_back((ShimLocalKind(code_, slot) & (kShimCell | kShimFree)) != 0);
    }
    for (const Instruction& instruction : decoded_.instructions()) {
      const bool makes = instruction.info().operand == OperandKind::kCellMake;
      if (makes && instruction.oparg < code_->co_nlocalsplus) holds_cell_[instruction.oparg] = true;
    }
  }

  void CheckCell(const Instruction& instruction) {
    CheckRange(instruction, instruction.oparg, code_->co_nlocalsplus, "slot");
    if (instruction.oparg < code_->co_nlocalsplus && !holds_cell_[instruction.oparg]) {
      Report(instruction, absl::StrCat("slot ", instruction.oparg, " holds no cell"));
    }
  }

  void CheckOperand(const Instruction& instruction) {
    const int oparg = instruction.oparg;
    const Py_ssize_t names = PyTuple_GET_SIZE(code_->co_names);
    switch (instruction.info().operand) {
      case OperandKind::kConst:
        return CheckRange(instruction, oparg, PyTuple_GET_SIZE(code_->co_consts), "constant");
      case OperandKind::kName:
        return CheckRange(instruction, oparg, names, "name");
      case OperandKind::kNameAndFlag:
        return CheckRange(instruction, oparg >> 1, names, "name");
      case OperandKind::kNameAndTwoFlags:
        return CheckRange(instruction, oparg >> 2, names, "name");
      case OperandKind::kLocalLoad:
      case OperandKind::kLocalStore:
      case OperandKind::kLocalDelete:
      case OperandKind::kLocalLoadClear:
      case OperandKind::kLocalLoadLoad:
      case OperandKind::kLocalStoreLoad:
      case OperandKind::kLocalStoreStore:
        return CheckSlots(instruction);
      case OperandKind::kCellLoad:
      case OperandKind::kCellStore:
      case OperandKind::kCellDelete:
      case OperandKind::kCellClosure:
      case OperandKind::kCellMake:
        return CheckCell(instruction);
      case OperandKind::kFreeCount:
        if (oparg != code_->co_nfreevars) {
          Report(instruction, absl::StrCat("copies ", oparg, " free variables, the code has ", code_->co_nfreevars));
        }
        return;
      case OperandKind::kCompare:
        return CheckRange(instruction, oparg, kComparisonCount, "comparison");
      case OperandKind::kCompareShift4:
        return CheckRange(instruction, oparg >> 4, kComparisonCount, "comparison");
      case OperandKind::kCompareShift5:
        return CheckRange(instruction, oparg >> 5, kComparisonCount, "comparison");
      case OperandKind::kBinaryOp:
        return CheckRange(instruction, oparg, kBinaryOperatorCount, "operator");
      case OperandKind::kStackIndex:
        // RERAISE alone may say 0: no offset below the exception.
        if (oparg == 0 && instruction.info().flow != ControlFlow::kRaise) {
          Report(instruction, "stack positions start at 1");
        }
        return;
      case OperandKind::kNone:
      case OperandKind::kJumpForward:
      case OperandKind::kJumpBackward:
      case OperandKind::kArgc:
      case OperandKind::kCount:
      case OperandKind::kUnpackEx:
      case OperandKind::kInvert:
      case OperandKind::kFlags:
      case OperandKind::kIntrinsic:
      case OperandKind::kExtended:
      case OperandKind::kOther:
        return;
    }
  }

  void CheckExceptionTable() {
    int previous_end = 0;
    for (const ExceptionEntry& entry : decoded_.exception_table()) {
      const bool inside = entry.start < entry.end && entry.end <= decoded_.units();
      const bool aligned = decoded_.IndexStarting(entry.start) >= 0 &&
                           (entry.end == decoded_.units() || decoded_.IndexStarting(entry.end) >= 0);
      if (entry.start < previous_end || !inside || !aligned) {
        problems_.push_back(absl::StrCat("exception table: ", entry.start, "..", entry.end,
                                         " is out of order or not on instruction boundaries"));
      }
      previous_end = entry.end;
    }
  }

  void CheckStack() {
    absl::StatusOr<StackDepths> depths = ComputeStackDepths(decoded_);
    if (!depths.ok()) {
      problems_.push_back(std::string(depths.status().message()));
    } else if (depths->max > code_->co_stacksize) {
      problems_.push_back(
          absl::StrCat("the stack needs ", depths->max, " values, co_stacksize is ", code_->co_stacksize));
    }
  }

  const DecodedCode& decoded_;
  PyCodeObject* code_;
  std::vector<bool> holds_cell_;
  std::vector<std::string> problems_;
};

}  // namespace

absl::Status Verify(const DecodedCode& decoded, PyCodeObject* code) { return Verifier(decoded, code).Run(); }

absl::Status VerifyCode(PyCodeObject* code) {
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return decoded.status();
  return Verify(*decoded, code);
}

}  // namespace framejit
