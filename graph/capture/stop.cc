// Recordings that end or begin in the middle of frames: where one could end after a break, what the frames hold there,
// and how a frame is set up that goes on from such a state.
#include <algorithm>
#include <numeric>

#include "graph/capture/recorder_impl.h"
#include "graph/capture/unread.h"

namespace framejit {
namespace {

// How often a call may be recorded again in search of a place where it can be left.
constexpr size_t kMaxStops = 12;
constexpr size_t kMaxRootInstructions = 1024;

bool CanBeLeft(PyCodeObject* code) {
  constexpr int kNeeded = CO_OPTIMIZED | CO_NEWLOCALS;
  constexpr int kRefused = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE;
  return (code->co_flags & kNeeded) == kNeeded && (code->co_flags & kRefused) == 0;
}

// Instructions that objects come from which may have no recipe.
bool MayMakeObjects(std::string_view opcode) {
  return opcode.starts_with("CALL") || opcode == "GET_ITER" || opcode == "FOR_ITER" || opcode == "BEFORE_WITH";
}

// Whether the code may hand its callers' frames to somebody who looks at all of their variables.
bool StartsDebugger(PyCodeObject* code) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); ++i) {
    PyObject* name = PyTuple_GET_ITEM(code->co_names, i);
    if (PyUnicode_CompareWithASCIIString(name, "breakpoint") == 0 ||
        PyUnicode_CompareWithASCIIString(name, "set_trace") == 0)
      return true;
  }
  return false;
}

}  // namespace

bool RecorderState::Impl::BeginInstruction(int offset, int64_t number) {
  LiveFrame& frame = *frames.back();
  frame.offset = offset;
  frame.instruction = number;
  if (request.resumes == nullptr) return true;
  if (frames.size() == 1) {
    if (root_instructions.size() >= kMaxRootInstructions)
      root_instructions.erase(root_instructions.begin(), root_instructions.begin() + kMaxRootInstructions / 2);
    root_instructions.emplace_back(number, offset);
  }
  if (!request.stop.has_value() || request.stop->instruction != number) return true;
  StopHere();
  return false;
}

// The breaking instruction, then the calls that led there, outwards; then earlier instructions of the entry frame, for
// the case that something which is alive at the break cannot be rebuilt.
std::vector<StopPoint> RecorderState::Impl::PossibleStops() {
  std::vector<StopPoint> stops;
  if (request.resumes == nullptr || request.stop.has_value() || entry_code == nullptr) return stops;
  size_t direct = frames.empty() ? 0 : 1;
  while (direct < frames.size() && frames[direct]->is_direct) ++direct;
  auto add = [&](int64_t number, PyCodeObject* code, int offset) {
    if (stops.size() < kMaxStops) stops.push_back({number, PyRef::Borrow(reinterpret_cast<PyObject*>(code)), offset});
  };
  for (size_t i = direct; i-- > 0;) add(frames[i]->instruction, frames[i]->code, frames[i]->offset);
  const CodeAnalysis* analysis = request.resumes->Analyze(entry_code);
  const int64_t limit = frames.empty() ? INT64_MAX : frames[0]->instruction;
  for (auto row = root_instructions.rbegin(); analysis != nullptr && row != root_instructions.rend(); ++row) {
    const int index = analysis->decoded.IndexCovering(row->second);
    if (row->first >= limit || index < 0 || !MayMakeObjects(analysis->decoded[index].info().name)) continue;
    add(row->first, entry_code, row->second);
  }
  return stops;
}

void RecorderState::Impl::StopHere() {
  const LiveFrame& innermost = *frames.back();
  if (reinterpret_cast<PyObject*>(innermost.code) != request.stop->code.get() ||
      innermost.offset != request.stop->offset) {
    return Break(BreakCode::kInternalError, "the second recording took another way");
  }
  if (HandledException() != handled_exception)
    return Break(BreakCode::kUnsupportedOutput, "the exception being handled");
  left.resize(frames.size());
  for (size_t depth = 0; depth < frames.size(); ++depth) {
    if (!LeaveFrame(depth)) return Break(BreakCode::kUnsupportedOutput, "a frame that cannot be left");
  }
  stopped = true;
  PyErr_SetString(PyExc_SystemError, "framejit: the recording ends here");
}

bool RecorderState::Impl::LeaveFrame(size_t depth) {
  const LiveFrame& frame = *frames[depth];
  const bool innermost = depth + 1 == frames.size();
  if (!CanBeLeft(frame.code) || (depth > 0 && !frame.is_direct)) return false;
  const CodeAnalysis* analysis = request.resumes->Analyze(frame.code);
  const int index = analysis == nullptr ? -1 : analysis->decoded.IndexCovering(frame.offset);
  if (index < 0 || (!innermost && !analysis->IsCall(index))) return false;
  LeftFrame& state = left[depth];
  state.point.code = frame.code;
  state.point.globals = frame.globals;
  state.point.target = innermost ? analysis->StartOfCall(index) : index + 1;
  state.point.call = innermost ? -1 : index;
  std::vector<int> slots = analysis->LiveSlots(index);
  if (std::any_of(frames.begin(), frames.end(), [](const LiveFrame* live) { return StartsDebugger(live->code); })) {
    slots.resize(static_cast<size_t>(frame.code->co_nlocalsplus));
    std::iota(slots.begin(), slots.end(), 0);
  }
  for (int slot : slots) {
    PyObject* value = frame.locals[slot];
    if (value == nullptr) continue;
    state.point.slots.push_back(slot);
    state.items.push_back(PyRef::Borrow(value));
  }
  const int values = innermost ? analysis->reentries->DepthAt(index) : analysis->DepthWithoutOperands(index);
  if (values < 0 || (innermost && values != *frame.stack_top - frame.stack_base)) return false;
  for (int i = 0; i < values; ++i) {
    PyObject* value = frame.stack_base[i];
    state.point.stack.push_back(value == nullptr ? StackItem::kNull : StackItem::kValue);
    if (value != nullptr) state.items.push_back(PyRef::Borrow(value));
  }
  return true;
}

// The state of the frames from `depth` inwards, and the function that goes on from it.
RecipeId RecorderState::Impl::StateRecipe(size_t depth, PyRef* function) {
  const LeftFrame& frame = left[depth];
  Recipe state{.kind = RecipeKind::kTuple, .object = {}, .children = {}, .attributes = {}};
  for (const PyRef& item : frame.items) {
    state.children.push_back(RecipeFor(item.get()));
    if (broken()) return kNoRecipe;
  }
  auto& recipes = recording->exit_plan.recipes;
  if (frame.point.waits()) {
    PyRef inner;
    const RecipeId inner_state = StateRecipe(depth + 1, &inner);
    if (broken()) return kNoRecipe;
    Recipe constant{.kind = RecipeKind::kConstant, .object = inner, .children = {}, .attributes = {}};
    recipes.push_back(std::move(constant));
    state.children.push_back(static_cast<RecipeId>(recipes.size()) - 1);
    state.children.push_back(inner_state);
  }
  absl::StatusOr<PyObject*> made = request.resumes->FunctionFor(frame.point);
  if (!made.ok()) {
    Break(BreakCode::kInternalError, std::string(made.status().message()));
    return kNoRecipe;
  }
  *function = PyRef::Borrow(*made);
  recipes.push_back(std::move(state));
  return static_cast<RecipeId>(recipes.size()) - 1;
}

SourceId RecorderState::Impl::StateSource(PyObject* state) {
  auto row = state_sources.find(state);
  return row != state_sources.end() ? row->second : Intern(SourceKind::kArgument, kNoSource, nullptr, 0);
}

int RecorderState::Impl::EnterResumed(const ResumePoint& point, PyObject* state, LiveFrame& frame) {
  PyRef owned = PyRef::Steal(state);
  if (!PyTuple_CheckExact(state) || PyTuple_GET_SIZE(state) != point.state_size())
    return BreakInt(BreakCode::kInternalError, "a state of another size");
  const SourceId base = StateSource(state);
  int next = 0;
  auto item_source = [&] { return Intern(SourceKind::kTupleItem, base, nullptr, next); };
  for (int slot : point.slots) {
    PyObject* value = PyTuple_GET_ITEM(state, next);
    const SourceId source = item_source();
    ++next;
    if ((ShimLocalKind(point.code, slot) & (kShimCell | kShimFree)) != 0 && PyCell_Check(value)) {
      cell_sources.try_emplace(value, source);
      kept_alive.push_back(PyRef::Borrow(value));
      frame.locals[slot] = Py_NewRef(value);
    } else {
      frame.locals[slot] = NewUnread(value, source);
      if (frame.locals[slot] == nullptr) return -1;
    }
  }
  for (StackItem item : point.stack) {
    PyObject* value = nullptr;
    if (item != StackItem::kNull) {
      PyObject* held = PyTuple_GET_ITEM(state, next);
      value = item == StackItem::kIterator && request.advance_iterators ? LiftIterator(held, item_source())
                                                                        : NewUnread(held, item_source());
      ++next;
      if (value == nullptr) return -1;
    }
    *(*frame.stack_top)++ = value;
  }
  for (int slot : SlotsOfSuper(point.code)) {
    PyObject** place = &frame.locals[slot];
    if (*place != nullptr && IsUnread(*place) && Read(place) != 0) return -1;
  }
  return 0;
}

PyObject* RecorderState::Impl::CallInner(const ResumePoint& point, PyObject* state) {
  const int last = point.state_size() - 1;
  PyObject* function = PyTuple_GET_ITEM(state, last - 1);
  PyObject* inner = PyTuple_GET_ITEM(state, last);
  state_sources[inner] = Intern(SourceKind::kTupleItem, StateSource(state), nullptr, last);
  tail_call = true;
  return Call(function, {inner});
}

// Positions in nested tuples; empty for what is not an item of the state.
VaryingItems::Path RecorderState::Impl::PathInState(SourceId source) const {
  VaryingItems::Path path;
  const Source* row = &recording->sources[source];
  for (; row->kind == SourceKind::kTupleItem; row = &recording->sources[row->parent]) path.push_back(row->index);
  if (row->kind != SourceKind::kArgument) path.clear();
  std::reverse(path.begin(), path.end());
  return path;
}

int RecorderState::Impl::Read(PyObject** place) {
  PyRef unread = PyRef::Borrow(*place);
  PyObject* value = UnreadValue(unread.get());
  const SourceId source = UnreadSource(unread.get());
  Provenance* provenance = FindKnown(value);
  PyObject* lifted = nullptr;
  if (PyFunction_Check(value) && provenance != nullptr && !provenance->pinned) {
    lifted = Py_NewRef(value);  // as below, earlier
  } else if (PyFunction_Check(value) && provenance == nullptr &&
             reinterpret_cast<PyFunctionObject*>(value)->func_closure != nullptr) {
    // Made by the frames that were left, so another one on each call: what counts is its code; its cells have sources.
    AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(&PyFunction_Type));
    AddGuard(GuardKind::kFunctionCode, source, PyFunction_GET_CODE(value));
    Remember(value, value, source, false);
    lifted = Py_NewRef(value);
  } else if (IsPrimitive(value) && request.varying != nullptr && request.varying->Contains(PathInState(source))) {
    Break(BreakCode::kVaryingValue, Py_TYPE(value)->tp_name);
  } else {
    lifted = Lift(Py_NewRef(value), source);
  }
  if (lifted == nullptr) return -1;
  Py_SETREF(*place, lifted);
  return 0;
}

int RecorderState::Impl::UnpackUnread(PyObject* unread, int size, PyObject*** stack_top) {
  PyObject* tuple = UnreadValue(unread);
  if (!PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) != size || known.contains(tuple)) return 0;
  const SourceId source = UnreadSource(unread);
  AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(&PyTuple_Type));
  AddGuard(GuardKind::kLengthIs, source, nullptr, size);
  for (int i = size; i-- > 0;) {
    PyObject* item = NewUnread(PyTuple_GET_ITEM(tuple, i), Intern(SourceKind::kTupleItem, source, nullptr, i));
    if (item == nullptr) return -1;
    *(*stack_top)++ = item;
  }
  return 1;
}

}  // namespace framejit
