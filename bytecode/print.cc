#include "bytecode/print.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

constexpr size_t kMaxConstant = 60;
constexpr const char* kComparisons[kComparisonCount] = {"<", "<=", "==", "!=", ">", ">="};

std::string Text(PyObject* text) {
  const char* utf8 = text != nullptr ? PyUnicode_AsUTF8(text) : nullptr;
  if (utf8 == nullptr) {
    PyErr_Clear();
    return "?";
  }
  return utf8;
}

std::string Item(PyObject* tuple, int index) {
  return index >= 0 && index < PyTuple_GET_SIZE(tuple) ? Text(PyTuple_GET_ITEM(tuple, index)) : "?";
}

// A nested code object's repr holds an address; its name says more.
std::string Constant(PyCodeObject* code, int index) {
  if (index < 0 || index >= PyTuple_GET_SIZE(code->co_consts)) return "?";
  PyObject* constant = PyTuple_GET_ITEM(code->co_consts, index);
  if (PyCode_Check(constant)) {
    return absl::StrCat("<code ", Text(reinterpret_cast<PyCodeObject*>(constant)->co_qualname), ">");
  }
  PyRef repr = PyRef::Steal(PyObject_Repr(constant));
  std::string text = Text(repr.get());
  if (text.size() <= kMaxConstant) return text;
  size_t end = kMaxConstant;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // never inside a UTF-8 character
  return text.substr(0, end) + "...";
}

std::string Comparison(int op) { return op >= 0 && op < kComparisonCount ? kComparisons[op] : "?"; }

class Printer {
 public:
  Printer(const DecodedCode& decoded, PyCodeObject* code) : decoded_(decoded), code_(code) {}

  std::string Print() {
    NameLabels();
    absl::StrAppendFormat(&out_, "code %s, %s:%d: %d slots, stack %d\n", Text(code_->co_qualname),
                          Text(code_->co_filename), code_->co_firstlineno, code_->co_nlocalsplus, code_->co_stacksize);
    PrintSlots();
    for (int i = 0; i < decoded_.size(); ++i) PrintInstruction(i);
    for (const ExceptionEntry& entry : decoded_.exception_table()) {
      absl::StrAppendFormat(&out_, "handler %d..%d -> %s depth %d%s\n", entry.start * kCodeUnitBytes,
                            entry.end * kCodeUnitBytes, Label(decoded_.IndexStarting(entry.target)), entry.depth,
                            entry.push_lasti ? " lasti" : "");
    }
    return std::move(out_);
  }

 private:
  void NameLabels() {
    for (const Instruction& instruction : decoded_.instructions()) {
      if (instruction.target >= 0) labels_[instruction.target] = 0;
    }
    for (const ExceptionEntry& entry : decoded_.exception_table()) labels_[decoded_.IndexStarting(entry.target)] = 0;
    int number = 0;
    for (auto& [index, label] : labels_) label = ++number;
  }

  std::string Label(int index) const { return absl::StrCat("L", labels_.at(index)); }

  void PrintSlots() {
    for (int slot = 0; slot < code_->co_nlocalsplus; ++slot) {
      const int kind = ShimLocalKind(code_, slot);
      const char* name = (kind & kShimFree) != 0    ? " (free)"
                         : (kind & kShimCell) == 0  ? ""
                         : (kind & kShimLocal) != 0 ? " (local cell)"
                                                    : " (cell)";
      absl::StrAppend(&out_, slot == 0 ? "  slots " : ", ", Slot(slot), name);
    }
    if (code_->co_nlocalsplus > 0) out_ += '\n';
  }

  void PrintInstruction(int index) {
    const Instruction& instruction = decoded_[index];
    if (labels_.contains(index)) absl::StrAppend(&out_, Label(index), ":\n");
    const int line = LineOf(code_, instruction);
    if (line != line_) absl::StrAppend(&out_, line < 0 ? "  no line" : absl::StrCat("  line ", line), "\n");
    line_ = line;
    absl::StrAppendFormat(&out_, "  %5d %s", instruction.offset * kCodeUnitBytes, std::string(instruction.info().name));
    const std::string operand = Operand(instruction);
    if (!operand.empty()) absl::StrAppend(&out_, " ", operand);
    out_ += '\n';
  }

  std::string Slot(int slot) const { return Item(code_->co_localsplusnames, slot); }

  std::string Operand(const Instruction& instruction) const {
    const int oparg = instruction.oparg;
    switch (instruction.info().operand) {
      case OperandKind::kNone:
        return "";
      case OperandKind::kConst:
        return absl::StrCat(oparg, " (", Constant(code_, oparg), ")");
      case OperandKind::kName:
        return absl::StrCat(oparg, " (", Item(code_->co_names, oparg), ")");
      case OperandKind::kNameAndFlag:
        return absl::StrCat(oparg, " (", Item(code_->co_names, oparg >> 1), oparg & 1 ? ", 1)" : ")");
      case OperandKind::kNameAndTwoFlags:
        return absl::StrCat(oparg, " (", Item(code_->co_names, oparg >> 2), ", ", oparg & 3, ")");
      case OperandKind::kLocalLoad:
      case OperandKind::kLocalStore:
      case OperandKind::kLocalDelete:
      case OperandKind::kLocalLoadClear:
      case OperandKind::kCellLoad:
      case OperandKind::kCellStore:
      case OperandKind::kCellDelete:
      case OperandKind::kCellMake:
      case OperandKind::kCellClosure:
        return absl::StrCat(oparg, " (", Slot(oparg), ")");
      case OperandKind::kLocalLoadLoad:
      case OperandKind::kLocalStoreLoad:
      case OperandKind::kLocalStoreStore:
        return absl::StrCat(oparg, " (", Slot(oparg >> 4), ", ", Slot(oparg & 15), ")");
      case OperandKind::kJumpForward:
      case OperandKind::kJumpBackward:
        return absl::StrCat("-> ", Label(instruction.target));
      case OperandKind::kCompare:
        return absl::StrCat(oparg, " (", Comparison(oparg), ")");
      case OperandKind::kCompareShift4:
        return absl::StrCat(oparg, " (", Comparison(oparg >> 4), ")");
      case OperandKind::kCompareShift5:
        return absl::StrCat(oparg, " (", Comparison(oparg >> 5), oparg & 16 ? ", bool)" : ")");
      case OperandKind::kFreeCount:
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
        return absl::StrCat(oparg);
    }
    return "";
  }

  const DecodedCode& decoded_;
  PyCodeObject* code_;
  std::map<int, int> labels_;  // instruction -> number
  int line_ = -1;
  std::string out_;
};

}  // namespace

std::string PrintCode(const DecodedCode& decoded, PyCodeObject* code) { return Printer(decoded, code).Print(); }

}  // namespace framejit
