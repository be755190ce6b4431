#include "graph/capture/resume.h"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "bytecode/cfg.h"
#include "bytecode/rewrite.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

// Of the last one, behind which nothing else is left to do; -1: there is none.
int OffsetOfReturn(PyCodeObject* code) {
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  for (int i = decoded.ok() ? decoded->size() : 0; i-- > 0;) {
    if ((*decoded)[i].info().name == "RETURN_VALUE") return (*decoded)[i].offset;
  }
  return -1;
}

// What CALL finds in the evaluator instead of on the stack.
bool PreparesCall(const Instruction& instruction) {
  return instruction.info().name == "KW_NAMES" || instruction.info().name == "PRECALL";
}

}  // namespace

std::vector<int> SlotsOfSuper(PyCodeObject* code) {
  std::vector<int> slots;
  for (int i = 0; i < code->co_nlocalsplus; ++i) {
    PyObject* name = PyTuple_GET_ITEM(code->co_localsplusnames, i);
    if ((ShimLocalKind(code, i) & kShimFree) != 0 && PyUnicode_CompareWithASCIIString(name, "__class__") == 0)
      slots = {0, i};
  }
  return slots;
}

PyObject* HandledException() {
  PyObject* exception = *ShimHandledExceptionSlot(PyThreadState_Get());
  return exception == Py_None ? nullptr : exception;
}

int ResumePoint::stack_values() const {
  return static_cast<int>(stack.size() - std::count(stack.begin(), stack.end(), StackItem::kNull));
}

absl::StatusOr<std::unique_ptr<CodeAnalysis>> CodeAnalysis::Of(PyCodeObject* source) {
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(source);
  if (!decoded.ok()) return decoded.status();
  auto analysis = std::unique_ptr<CodeAnalysis>(new CodeAnalysis{
      .code = source,
      .decoded = *std::move(decoded),
      .liveness = {},
      .reentries = {},
  });
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(analysis->decoded);
  if (!reentries.ok()) return reentries.status();
  analysis->reentries.emplace(*std::move(reentries));
  analysis->liveness.emplace(analysis->decoded, Cfg(analysis->decoded), source->co_nlocalsplus);
  return analysis;
}

std::vector<int> CodeAnalysis::LiveSlots(int index) const {
  if (LooksAtFrames()) {
    std::vector<int> all(static_cast<size_t>(code->co_nlocalsplus));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::vector<int> slots = liveness->SlotsLiveBefore(index);
  for (int slot : SlotsOfSuper(code)) {
    if (std::find(slots.begin(), slots.end(), slot) == slots.end()) slots.push_back(slot);
  }
  return slots;
}

int CodeAnalysis::StartOfCall(int index) const {
  while (index > 0 && PreparesCall(decoded[index - 1])) --index;
  return index;
}

int CodeAnalysis::EndOfCall(int index) const {
  while (PreparesCall(decoded[index])) ++index;
  return index;
}

bool CodeAnalysis::LooksAtFrames() const {
  static constexpr const char* kNames[] = {"locals",         "vars",           "dir",   "eval",      "exec",
                                           "_getframe",      "currentframe",   "stack", "set_trace", "breakpoint",
                                           "current_frames", "_current_frames"};
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); ++i) {
    for (const char* name : kNames) {
      if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(code->co_names, i), name) == 0) return true;
    }
  }
  return false;
}

bool CodeAnalysis::IsCall(int index) const {
  const std::string_view name = decoded[index].info().name;
  return name == "CALL" || name == "CALL_KW" || name == "CALL_FUNCTION_EX";
}

std::vector<int> CodeAnalysis::ReentriesAfter(int index) const {
  std::vector<int> pending = HandlerOf(index);
  for (int next : Successors(decoded, index)) pending.push_back(next);
  return FirstReentries(std::move(pending));
}

std::vector<int> CodeAnalysis::ReentriesInHandlerOf(int index) const { return FirstReentries(HandlerOf(index)); }

std::vector<int> CodeAnalysis::HandlerOf(int index) const {
  const ExceptionEntry* entry = decoded[index].info().raises ? decoded.HandlerOf(decoded[index]) : nullptr;
  return entry == nullptr ? std::vector<int>{} : std::vector<int>{decoded.IndexStarting(entry->target)};
}

// RERAISE at the end of a handler cannot be recorded, so that there is nothing to gain before it.
std::vector<int> CodeAnalysis::FirstReentries(std::vector<int> pending) const {
  std::vector<int> found;
  std::vector<bool> seen(static_cast<size_t>(decoded.size()), false);
  while (!pending.empty()) {
    const int next = pending.back();
    pending.pop_back();
    if (seen[static_cast<size_t>(next)]) continue;
    seen[static_cast<size_t>(next)] = true;
    if (reentries->IsLegal(next) && decoded[next].info().name != "RERAISE") {
      found.push_back(next);
      continue;
    }
    for (int further : Successors(decoded, next)) pending.push_back(further);
    for (int handler : HandlerOf(next)) pending.push_back(handler);
  }
  std::sort(found.begin(), found.end());
  return found;
}

int CodeAnalysis::DepthWithoutOperands(int index) const {
  const Instruction& instruction = decoded[index];
  return reentries->DepthAt(index) - StackEffectOf(instruction.opcode, instruction.oparg, /*taken=*/false).pops;
}

namespace {

// How many changes make a value a varying one: a mode that is one of two or three is worth a recording each, but a
// float or what an exception says is hardly ever one.
constexpr int kManyChanges = 2;
constexpr int kManyChangesOfOthers = 1;
constexpr size_t kMaxNesting = 8;

bool IsNumberOrText(PyObject* object) {
  return PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyUnicode_CheckExact(object) ||
         PyComplex_CheckExact(object);
}

// Of a value or of the items of a tuple.
bool HasOnlyPlainValues(PyObject* value) {
  if (!PyTuple_CheckExact(value)) return IsNumberOrText(value) || value == Py_None;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
    if (!IsNumberOrText(PyTuple_GET_ITEM(value, i))) return false;
  }
  return true;
}

}  // namespace

void VaryingItems::Note(PyObject* state) {
  Path path;
  NoteItems(state, path);
}

void VaryingItems::NoteItems(PyObject* tuple, Path& path) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    PyObject* value = PyTuple_GET_ITEM(tuple, i);
    path.push_back(static_cast<int>(i));
    if (PyTuple_CheckExact(value) && path.size() < kMaxNesting) {
      NoteItems(value, path);
    } else if (PyExceptionInstance_Check(value)) {
      path.push_back(kArgs);
      NoteItem(reinterpret_cast<PyBaseExceptionObject*>(value)->args, path);
      path.pop_back();
    } else if (IsNumberOrText(value)) {
      NoteItem(value, path);
    }
    path.pop_back();
  }
}

void VaryingItems::NoteItem(PyObject* value, const Path& path) { NoteValue(value, items_[path]); }

void VaryingItems::NoteValue(PyObject* value, Item& item) {
  const bool same = item.last && Py_TYPE(item.last.get()) == Py_TYPE(value) && HasOnlyPlainValues(value) &&
                    PyObject_RichCompareBool(item.last.get(), value, Py_EQ) == 1;
  if (item.last && !same) ++item.changes;
  // Objects that may be more than numbers and texts are not kept.
  item.last = PyRef::Borrow(HasOnlyPlainValues(value) ? value : Py_None);
}

bool VaryingItems::Contains(const Path& path) const {
  auto row = items_.find(path);
  if (row == items_.end()) return false;
  PyObject* last = row->second.last.get();
  const bool is_mode = PyLong_CheckExact(last) || PyUnicode_CheckExact(last);
  return row->second.changes >= (is_mode ? kManyChanges : kManyChangesOfOthers);
}

void VaryingItems::WatchSources(std::vector<std::string> argument_names) {
  watches_ = true;
  argument_names_ = std::move(argument_names);
}

bool VaryingItems::NoteSource(const SourceTable& sources, SourceId source, PyObject* value) {
  if (!watches_ || !IsNumberOrText(value)) return false;
  std::string name = sources.ToString(source, argument_names_);
  if (given_up_.contains(name)) {
    avoided_.insert(std::move(name));
    return true;
  }
  NoteValue(value, read_[std::move(name)]);
  return false;
}

std::vector<std::string> VaryingItems::GiveUpSources() {
  std::vector<std::string> names;
  for (const auto& [name, item] : read_) {
    if (item.changes < kManyChanges) continue;
    given_up_.insert(name);
    names.push_back(absl::StrCat(name, " (last ", ObjectText(item.last.get()), ")"));
  }
  std::sort(names.begin(), names.end());
  return names;
}

const CodeAnalysis* ResumeTable::Analyze(PyCodeObject* code) {
  auto [row, inserted] = analyses_.try_emplace(code, nullptr);
  if (!inserted) return row->second.get();
  kept_alive_.push_back(PyRef::Borrow(reinterpret_cast<PyObject*>(code)));
  absl::StatusOr<std::unique_ptr<CodeAnalysis>> analysis = CodeAnalysis::Of(code);
  if (analysis.ok()) row->second = *std::move(analysis);
  return row->second.get();
}

int ResumedCode::OriginalOffset(int offset) const {
  auto row = std::find(offsets.begin(), offsets.end(), offset);
  return row == offsets.end() ? -1 : static_cast<int>(row - offsets.begin());
}

const ResumedCode* ResumeTable::Find(PyCodeObject* code) const {
  auto row = codes_.find(code);
  return row == codes_.end() ? nullptr : &row->second;
}

absl::StatusOr<PyObject*> ResumeTable::FunctionFor(const ResumePoint& point) {
  // A point that no function can be made for keeps null, so that a hook in a loop does not try again.
  auto [row, inserted] = functions_.try_emplace(point);
  if (inserted) {
    kept_alive_.push_back(PyRef::Borrow(point.globals));
    std::vector<int> offsets;
    absl::StatusOr<PyRef> function = MakeFunction(point, &offsets);
    if (!function.ok()) return function.status();
    auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function->get()));
    const int return_offset = OffsetOfReturn(code);
    if (return_offset < 0) return absl::InvalidArgumentError("code without a RETURN_VALUE");
    codes_[code] = {&row->first, return_offset, std::move(offsets)};
    row->second = *std::move(function);
  }
  if (!row->second) return absl::InvalidArgumentError("the frame cannot be entered here");
  return row->second.get();
}

absl::StatusOr<PyRef> ResumeTable::MakeFunction(const ResumePoint& point, std::vector<int>* offsets) {
  const CodeAnalysis* analysis = Analyze(point.code);
  if (analysis == nullptr) return absl::InvalidArgumentError("code that cannot be analysed");
  if (!analysis->reentries->CanEnter(point.target) ||
      analysis->reentries->SavedAt(point.target).empty() == point.handles)
    return absl::InvalidArgumentError("the frame cannot be entered here");
  EnterAt enter;
  enter.target = point.target;
  enter.locals = point.slots;
  enter.closure = false;
  for (StackItem item : point.stack) enter.stack.push_back(item != StackItem::kNull);
  enter.inner_call = point.waits();
  enter.call = point.call;
  enter.marker = marker_;
  if (!point.waits()) enter.unpacked = unpacked_;
  // A frame that waited goes over as soon as the inner one has returned or raised; any other after its next
  // instruction.
  std::vector<int> reentries;
  if (point.waits()) {
    reentries = analysis->ReentriesInHandlerOf(point.call);
    if (analysis->reentries->IsLegal(point.target)) reentries.push_back(point.target);
  } else {
    reentries = analysis->ReentriesAfter(analysis->EndOfCall(point.target));
  }
  if (analysis->LooksAtFrames()) reentries.clear();
  for (int target : reentries) {
    Reentry reentry{.code = point.code,
                    .globals = point.globals,
                    .target = target,
                    .depth = analysis->reentries->DepthAt(target),
                    .live = analysis->LiveSlots(target),
                    .first_slot = point.code->co_nlocals == 0 ? 1 : 0,  // as MakeEnterAt does
                    .saved = analysis->reentries->SavedAt(target),
                    .lastis = analysis->reentries->LastisAt(target)};
    enter.reentries.push_back({target, hooks_(std::move(reentry))});
    if (!enter.reentries.back().hook) return absl::InternalError("no memory for a hook");
  }
  absl::StatusOr<PyRef> code = MakeEnterAt(point.code, enter, offsets);
  if (!code.ok()) return code.status();
  PyRef function = PyRef::Steal(PyFunction_New(code->get(), point.globals));
  if (function) return function;
  PyErr_Clear();
  return absl::InternalError("PyFunction_New failed");
}

int ResumeTable::Traverse(visitproc visit, void* arg) const {
  for (const auto& [point, function] : functions_) Py_VISIT(function.get());
  for (const PyRef& object : kept_alive_) Py_VISIT(object.get());
  return 0;
}

}  // namespace framejit
