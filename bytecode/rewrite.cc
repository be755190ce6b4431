#include "bytecode/rewrite.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bytecode/code_writer.h"
#include "bytecode/decode.h"
#include "bytecode/encode.h"
#include "bytecode/reentry.h"
#include "bytecode/reentry_hook.h"

namespace framejit {
namespace {

using Label = CodeWriter::Label;

constexpr int kGeneratorFlags = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE;
constexpr const char* kLeadingLocal = ".framejit";  // no identifier: no program has such a variable
// Operands of RESUME: the second, for frames that were waiting for another, does not look for signals.
constexpr int kResumeAtStart = 0;
constexpr int kResumeWithoutSignals = 2;
constexpr int kStateSlot = 0;  // the argument's
constexpr int kPairMask = 15;
constexpr int kPairShift = 4;

// The opcode by the first of two names that this minor has.
Opcode EitherOpcode(std::string_view name, std::string_view other) {
  const std::optional<Opcode> opcode = FindOpcode(name);
  return opcode ? *opcode : FindOpcode(other).value_or(Opcode::k_NOP);
}
Opcode JumpIfNotNone() { return EitherOpcode("POP_JUMP_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE"); }
Opcode JumpIfTrue() { return EitherOpcode("POP_JUMP_IF_TRUE", "POP_JUMP_FORWARD_IF_TRUE"); }

bool IsSlot(OperandKind kind) {
  switch (kind) {
    case OperandKind::kLocalLoad:
    case OperandKind::kLocalStore:
    case OperandKind::kLocalDelete:
    case OperandKind::kLocalLoadClear:
    case OperandKind::kCellLoad:
    case OperandKind::kCellStore:
    case OperandKind::kCellDelete:
    case OperandKind::kCellClosure:
    case OperandKind::kCellMake:
      return true;
    case OperandKind::kLocalLoadLoad:
    case OperandKind::kLocalStoreLoad:
    case OperandKind::kLocalStoreStore:
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
      return false;
  }
  return false;
}

bool IsSlotPair(OperandKind kind) {
  return kind == OperandKind::kLocalLoadLoad || kind == OperandKind::kLocalStoreLoad ||
         kind == OperandKind::kLocalStoreStore;
}

// What rewriting needs to know of the original; stays in place, since the analyses point into it.
struct Original {
  PyCodeObject* code;
  DecodedCode decoded;
  Assembly assembly;
  std::optional<Reentries> reentries;

  absl::Status Read() {
    absl::StatusOr<DecodedCode> decoding = DecodedCode::Decode(code);
    if (!decoding.ok()) return decoding.status();
    decoded = *std::move(decoding);
    absl::StatusOr<Assembly> disassembly = Disassemble(decoded, code);
    if (!disassembly.ok()) return disassembly.status();
    assembly = *std::move(disassembly);
    absl::StatusOr<Reentries> analysis = Reentries::Analyze(decoded);
    if (!analysis.ok()) return analysis.status();
    reentries.emplace(*std::move(analysis));
    return absl::OkStatus();
  }
};

absl::Status CheckIndex(const Original& original, int index) {
  if (index >= 0 && index < original.decoded.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("no instruction has index ", index));
}

absl::Status CheckTarget(const Original& original, int target, bool has_stub) {
  absl::Status status = CheckIndex(original, target);
  if (!status.ok()) return status;
  const Reentries& reentries = *original.reentries;
  if (has_stub ? reentries.IsLegal(target) : reentries.CanEnter(target)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("cannot enter at instruction ", target, ": ",
                   std::string(ReentryRefusalReason(original.reentries->Refusal(target)))));
}

class Rewriter {
 public:
  Rewriter(const Original& original, const std::vector<ReentryPoint>& points, bool add_local)
      : original_(original),
        writer_(original.code->co_consts),
        shift_(add_local ? 1 : 0),
        hooks_(original.decoded.size()),
        entries_(writer_.NewLabels(original.decoded.size() + 1)),
        instructions_(writer_.NewLabels(original.decoded.size())) {
    for (const ReentryPoint& point : points) hooks_[point.target] = point.hook;
  }

  void EmitPrologue(const EnterAt& enter);
  // The original instructions with their stubs, then the ways out.
  void EmitBody();
  absl::StatusOr<PyRef> Build(CodeHeader header);
  // By instruction of the original: its place among the instructions of the result. After EmitBody.
  const std::vector<int>& Places() const { return places_; }

 private:
  const DecodedCode& decoded() const { return original_.decoded; }
  const SourceSpan& SpanAt(int index) const { return original_.assembly.instructions[index].span; }

  // Prologue.
  void EmitEmptyCells(const EnterAt& enter);
  void EmitMadeCells();
  void LoadState(int item);
  void EmitStack(const EnterAt& enter, const std::vector<int>& saved);
  void EmitHandledException(int item);
  void EmitLocals(const EnterAt& enter);
  void EmitInnerCall(const EnterAt& enter, const std::vector<int>& saved);
  void CoverLike(int index, Label begin, Label end);

  // Body.
  void EmitStub(int index);
  void EmitOriginal(int index);
  void EmitSlotPair(const AssemblyInstruction& instruction, OperandKind kind);
  void CopyHandlers();

  // Ways out: [depth values, result] -> return result.
  Label ExitAt(int depth, const std::vector<int>& saved);
  void EmitExits();

  struct RestoringExit {
    Label label;
    int depth;
    int saved;  // position of the exception to put back
  };

  const Original& original_;
  CodeWriter writer_;
  int shift_;
  std::vector<PyRef> hooks_;        // by instruction; null: no re-entry point
  Label entries_;                   // by instruction, and the end: where jumps to it go, the stub if it has one
  Label instructions_;              // by instruction: itself
  std::vector<Label> plain_exits_;  // by depth
  std::vector<RestoringExit> restoring_exits_;
  std::vector<int> places_;
};

// Layout: COPY_FREE_VARS must come first, CPython looks for it there. The MAKE_CELLs are never run, the state has the
// cells; CPython takes a cell variable's value out of its cell for locals() only if it finds a MAKE_CELL in front of
// the instruction that is running. Nothing before RESUME belongs to a frame that tracebacks and tools see; RESUME looks
// for signals, so that it runs when the frame is complete, as part of the instruction it leads to; not where nothing
// may be raised.
void Rewriter::EmitPrologue(const EnterAt& enter) {
  if (original_.code->co_nfreevars > 0 && enter.closure)
    writer_.Emit(Opcode::k_COPY_FREE_VARS, original_.code->co_nfreevars);
  if (!enter.closure) EmitEmptyCells(enter);
  EmitMadeCells();
  const std::vector<int> saved = original_.reentries->SavedAt(enter.target);
  const int origin = enter.inner_call ? enter.call : enter.target;
  EmitStack(enter, saved);
  if (enter.inner_call) {
    const int callable = static_cast<int>(enter.locals.size()) + (saved.empty() ? 0 : 1) +
                         static_cast<int>(std::count(enter.stack.begin(), enter.stack.end(), true));
    if (!kNullAboveCallable) writer_.Emit(Opcode::k_PUSH_NULL);
    LoadState(callable);
    if (kNullAboveCallable) writer_.Emit(Opcode::k_PUSH_NULL);
    LoadState(callable + 1);
  }
  EmitLocals(enter);
  if (enter.unpacked) {
    writer_.LoadConstant(WrapReentryHook(enter.unpacked));
    writer_.Emit(Opcode::k_UNARY_INVERT);
    writer_.Emit(Opcode::k_POP_TOP);
  }
  const Label begin = writer_.NewLabel();
  const Label end = writer_.NewLabel();
  writer_.Bind(begin);
  writer_.SetSpan(SpanAt(origin));
  const bool may_raise = enter.inner_call || original_.reentries->IsLegal(enter.target);
  writer_.Emit(Opcode::k_RESUME, may_raise ? kResumeAtStart : kResumeWithoutSignals);
  if (enter.inner_call) EmitInnerCall(enter, saved);
  writer_.Bind(end);
  writer_.EmitJump(Opcode::k_JUMP_FORWARD, (enter.inner_call ? entries_ : instructions_) + enter.target);
  CoverLike(origin, begin, end);
}

// Of free variables that the state does not have: CPython takes each of them to be a cell when it makes f_locals.
void Rewriter::EmitEmptyCells(const EnterAt& enter) {
  const int end = original_.code->co_nlocalsplus;
  for (int slot = end - original_.code->co_nfreevars; slot < end; ++slot) {
    if (std::find(enter.locals.begin(), enter.locals.end(), slot) == enter.locals.end())
      writer_.Emit(Opcode::k_MAKE_CELL, slot + shift_);
  }
}

void Rewriter::EmitMadeCells() {
  const Label behind = writer_.NewLabel();
  bool any = false;
  for (const Instruction& instruction : decoded().instructions()) {
    if (instruction.opcode == Opcode::k_RESUME) break;
    if (instruction.opcode != Opcode::k_MAKE_CELL) continue;
    if (!any) writer_.EmitJump(Opcode::k_JUMP_FORWARD, behind);
    any = true;
    writer_.Emit(Opcode::k_MAKE_CELL, instruction.oparg + shift_);
  }
  writer_.Bind(behind);
}

void Rewriter::LoadState(int item) {
  writer_.Emit(Opcode::k_LOAD_FAST, kStateSlot);
  writer_.LoadIndex(item);
  writer_.Emit(Opcode::k_BINARY_SUBSCR);
}

void Rewriter::EmitStack(const EnterAt& enter, const std::vector<int>& saved) {
  int item = static_cast<int>(enter.locals.size());
  const int exception = item + static_cast<int>(std::count(enter.stack.begin(), enter.stack.end(), true));
  std::vector<int> saved_items;  // items of the tuple
  for (int i = 0, next = item; i < static_cast<int>(enter.stack.size()); ++i) {
    if (std::find(saved.begin(), saved.end(), i) != saved.end()) saved_items.push_back(next);
    next += enter.stack[i] ? 1 : 0;
  }
  // What a handler saved is what the one around it handles; the innermost handles the exception of the state.
  saved_items.push_back(exception);
  size_t handler = 0;
  for (int i = 0; i < static_cast<int>(enter.stack.size()); ++i) {
    if (!enter.stack[i]) {
      writer_.Emit(Opcode::k_PUSH_NULL);
      continue;
    }
    if (std::find(saved.begin(), saved.end(), i) != saved.end()) {
      EmitHandledException(saved_items[++handler]);
    } else {
      LoadState(item);
    }
    ++item;
  }
}

// Handles the exception and leaves what was handled before on the stack.
void Rewriter::EmitHandledException(int item) {
  LoadState(item);
  writer_.Emit(Opcode::k_PUSH_EXC_INFO);
  writer_.Emit(Opcode::k_POP_TOP);
}

void Rewriter::EmitLocals(const EnterAt& enter) {
  int first = -1;  // item of the slot that the tuple is in, which is written last
  for (int i = 0; i < static_cast<int>(enter.locals.size()); ++i) {
    const int slot = enter.locals[i] + shift_;
    if (slot == kStateSlot) {
      first = i;
      continue;
    }
    LoadState(i);
    writer_.Emit(Opcode::k_STORE_FAST, slot);
  }
  if (first < 0) return writer_.Emit(Opcode::k_DELETE_FAST, kStateSlot);
  LoadState(first);
  writer_.Emit(Opcode::k_STORE_FAST, kStateSlot);
}

void Rewriter::EmitInnerCall(const EnterAt& enter, const std::vector<int>& saved) {
  if (FindOpcode("PRECALL")) writer_.EmitNamed("PRECALL", 1);
  writer_.Emit(Opcode::k_CALL, 1);
  writer_.Emit(Opcode::k_COPY, 1);
  writer_.LoadConstant(enter.marker);
  writer_.Emit(Opcode::k_IS_OP, 0);
  writer_.EmitJump(JumpIfTrue(), ExitAt(static_cast<int>(enter.stack.size()), saved));
  if (enter.drop_result) writer_.Emit(Opcode::k_POP_TOP);
}

void Rewriter::CoverLike(int index, Label begin, Label end) {
  const ExceptionEntry* entry = decoded().HandlerOf(decoded()[index]);
  if (entry == nullptr) return;
  const Label target = instructions_ + decoded().IndexStarting(entry->target);
  writer_.AddHandler(begin, end, target, entry->depth, entry->push_lasti);
}

void Rewriter::EmitBody() {
  for (int i = 0; i < decoded().size(); ++i) {
    writer_.Bind(entries_ + i);
    if (hooks_[i]) EmitStub(i);
    writer_.Bind(instructions_ + i);
    places_.push_back(writer_.size());
    EmitOriginal(i);
  }
  writer_.Bind(entries_ + decoded().size());
  CopyHandlers();
  EmitExits();
}

void Rewriter::EmitStub(int index) {
  writer_.SetSpan(SpanAt(index));
  writer_.LoadConstant(WrapReentryHook(hooks_[index]));
  writer_.Emit(Opcode::k_UNARY_INVERT);
  writer_.Emit(Opcode::k_COPY, 1);
  writer_.EmitJump(JumpIfNotNone(), ExitAt(original_.reentries->DepthAt(index), original_.reentries->SavedAt(index)));
  writer_.Emit(Opcode::k_POP_TOP);
}

void Rewriter::EmitOriginal(int index) {
  AssemblyInstruction instruction = original_.assembly.instructions[index];
  const OperandKind kind = InfoOf(instruction.opcode).operand;
  if (shift_ > 0 && IsSlotPair(kind)) return EmitSlotPair(instruction, kind);
  if (IsSlot(kind)) instruction.oparg += shift_;
  writer_.EmitCopy(instruction, instruction.target < 0 ? -1 : entries_ + instruction.target);
}

// Turn this: LOAD_FAST_LOAD_FAST a, b. Into this: LOAD_FAST a + 1; LOAD_FAST b + 1. The pair has no room for more than
// four bits.
void Rewriter::EmitSlotPair(const AssemblyInstruction& instruction, OperandKind kind) {
  const bool stores_high = kind != OperandKind::kLocalLoadLoad;
  const bool stores_low = kind == OperandKind::kLocalStoreStore;
  writer_.SetSpan(instruction.span);
  writer_.Emit(stores_high ? Opcode::k_STORE_FAST : Opcode::k_LOAD_FAST, (instruction.oparg >> kPairShift) + shift_);
  writer_.Emit(stores_low ? Opcode::k_STORE_FAST : Opcode::k_LOAD_FAST, (instruction.oparg & kPairMask) + shift_);
}

void Rewriter::CopyHandlers() {
  for (const AssemblyHandler& handler : original_.assembly.handlers) {
    writer_.AddHandler(entries_ + handler.begin, entries_ + handler.end, instructions_ + handler.target, handler.depth,
                       handler.push_lasti);
  }
}

Label Rewriter::ExitAt(int depth, const std::vector<int>& saved) {
  while (static_cast<int>(plain_exits_.size()) <= depth) plain_exits_.push_back(writer_.NewLabel());
  if (saved.empty()) return plain_exits_[depth];
  restoring_exits_.push_back({writer_.NewLabel(), depth, saved.front()});
  return restoring_exits_.back().label;
}

// Values may be NULL, which only STORE_FAST takes off the stack; whatever variable it overwrites, the frame is done.
void Rewriter::EmitExits() {
  writer_.SetSpan(kNoSpan);
  for (const RestoringExit& exit : restoring_exits_) {
    writer_.Bind(exit.label);
    writer_.Emit(Opcode::k_COPY, exit.depth + 1 - exit.saved);
    writer_.Emit(Opcode::k_POP_EXCEPT);
    writer_.EmitJump(Opcode::k_JUMP_FORWARD, plain_exits_[exit.depth]);
  }
  for (int depth = static_cast<int>(plain_exits_.size()) - 1; depth >= 0; --depth) {
    writer_.Bind(plain_exits_[depth]);
    if (depth == 0) return writer_.Emit(Opcode::k_RETURN_VALUE);
    writer_.Emit(Opcode::k_SWAP, 2);
    writer_.Emit(Opcode::k_STORE_FAST, 0);
  }
}

absl::StatusOr<PyRef> Rewriter::Build(CodeHeader header) {
  absl::StatusOr<CodeWriter::Finished> finished = writer_.Finish();
  if (!finished.ok()) return finished.status();
  header.consts = std::move(finished->consts);
  if (shift_ > 0) {
    header.leading_local = PyRef::Steal(PyUnicode_InternFromString(kLeadingLocal));
    if (!header.leading_local) {
      PyErr_Clear();
      return absl::InternalError("CPython failed to make a name");
    }
  }
  return BuildCode(finished->assembly, original_.code, header);
}

absl::Status CheckPoints(const Original& original, const std::vector<ReentryPoint>& points) {
  for (const ReentryPoint& point : points) {
    absl::Status status = CheckTarget(original, point.target, /*has_stub=*/true);
    if (!status.ok()) return status;
    if (!point.hook) return absl::InvalidArgumentError("a re-entry point without a hook");
  }
  return absl::OkStatus();
}

absl::Status CheckState(const Original& original, const EnterAt& enter) {
  const int results = enter.inner_call && !enter.drop_result ? 1 : 0;
  const int depth = original.reentries->DepthAt(enter.target);
  if (static_cast<int>(enter.stack.size()) + results != depth) {
    return absl::InvalidArgumentError(
        absl::StrCat("the state has ", enter.stack.size() + results, " stack values, the code ", depth));
  }
  for (int position : original.reentries->SavedAt(enter.target)) {
    if (position >= static_cast<int>(enter.stack.size()) || !enter.stack[position]) {
      return absl::InvalidArgumentError("the state lacks a saved exception");
    }
  }
  std::vector<bool> given(original.code->co_nlocalsplus, false);
  for (int slot : enter.locals) {
    if (slot < 0 || slot >= original.code->co_nlocalsplus || given[slot]) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " does not exist or is given twice"));
    }
    given[slot] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckEnterAt(const Original& original, const EnterAt& enter) {
  const int flags = original.code->co_flags;
  if ((flags & kGeneratorFlags) != 0) return absl::InvalidArgumentError("a generator's frame cannot be entered");
  if ((flags & CO_OPTIMIZED) == 0) return absl::InvalidArgumentError("the code is no function's");
  absl::Status status = CheckTarget(original, enter.target, /*has_stub=*/false);
  if (status.ok()) status = CheckPoints(original, enter.reentries);
  if (status.ok()) status = CheckState(original, enter);
  if (!status.ok() || !enter.inner_call) return status;
  if (!enter.marker) return absl::InvalidArgumentError("an inner call without a marker");
  return CheckIndex(original, enter.call);
}

// By offset of an instruction in the original: its offset in the code that was made from it.
absl::StatusOr<std::vector<int>> NewOffsets(const DecodedCode& original, const std::vector<int>& places,
                                            const PyRef& made) {
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(reinterpret_cast<PyCodeObject*>(made.get()));
  if (!decoded.ok()) return decoded.status();
  std::vector<int> offsets(static_cast<size_t>(original.units()), -1);
  for (int i = 0; i < original.size(); ++i) offsets[original[i].offset] = (*decoded)[places[i]].offset;
  return offsets;
}

}  // namespace

absl::StatusOr<PyRef> MakeEnterAt(PyCodeObject* code, const EnterAt& enter, std::vector<int>* offsets) {
  Original original{code};
  absl::Status status = original.Read();
  if (status.ok()) status = CheckEnterAt(original, enter);
  if (!status.ok()) return status;
  Rewriter rewriter(original, enter.reentries, /*add_local=*/code->co_nlocals == 0);
  rewriter.EmitPrologue(enter);
  rewriter.EmitBody();
  CodeHeader header = CodeHeader::Of(code);
  header.argcount = 1;
  header.posonlyargcount = 0;
  header.kwonlyargcount = 0;
  header.flags &= ~(CO_VARARGS | CO_VARKEYWORDS);
  absl::StatusOr<PyRef> made = rewriter.Build(std::move(header));
  if (!made.ok() || offsets == nullptr) return made;
  absl::StatusOr<std::vector<int>> found = NewOffsets(original.decoded, rewriter.Places(), *made);
  if (!found.ok()) return found.status();
  *offsets = *std::move(found);
  return made;
}

absl::StatusOr<bool> StateHasException(PyCodeObject* code, int target) {
  Original original{code};
  absl::Status status = original.Read();
  if (status.ok()) status = CheckTarget(original, target, /*has_stub=*/false);
  if (!status.ok()) return status;
  return !original.reentries->SavedAt(target).empty();
}

absl::StatusOr<PyRef> MakeWithReentries(PyCodeObject* code, const std::vector<ReentryPoint>& reentries) {
  Original original{code};
  absl::Status status = original.Read();
  if (status.ok()) status = CheckPoints(original, reentries);
  if (!status.ok()) return status;
  // The ways out need a variable to overwrite.
  Rewriter rewriter(original, reentries, /*add_local=*/code->co_nlocalsplus == 0);
  rewriter.EmitBody();
  return rewriter.Build(CodeHeader::Of(code));
}

int SlotShift(PyCodeObject* original, PyCodeObject* rewritten) {
  return rewritten->co_nlocalsplus - original->co_nlocalsplus;
}

}  // namespace framejit
