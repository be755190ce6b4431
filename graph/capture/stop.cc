// Recordings that end or begin in the middle of frames: where one could end after a break, what the frames hold there,
// and how a frame is set up that goes on from such a state.
#include <algorithm>
#include <numeric>

#include "frame_eval/cpython/lifetime.h"
#include "frame_eval/guards/iterators.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unread.h"

namespace framejit {
namespace {

// How often a call may be recorded again in search of a place where it can be left.
constexpr size_t kMaxStops = 12;
constexpr size_t kMaxRootInstructions = 1024;
constexpr int kMaxHandlers = 32;

bool CanBeLeft(PyCodeObject* code) {
  constexpr int kNeeded = CO_OPTIMIZED | CO_NEWLOCALS;
  constexpr int kRefused = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE;
  return (code->co_flags & kNeeded) == kNeeded && (code->co_flags & kRefused) == 0;
}

// Instructions that objects come from which may have no recipe.
bool MayMakeObjects(std::string_view opcode) {
  return opcode.starts_with("CALL") || opcode == "GET_ITER" || opcode == "FOR_ITER" || opcode == "BEFORE_WITH";
}

// Whether the value, which lies at `path` in the state, or one in it if it is a tuple, differs from recording to
// recording.
bool Varies(const VaryingItems& varying, PyObject* value, VaryingItems::Path path) {
  if (path.empty()) return false;
  if (!PyTuple_CheckExact(value)) return IsPrimitive(value) && varying.Contains(path);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
    path.push_back(static_cast<int>(i));
    if (Varies(varying, PyTuple_GET_ITEM(value, i), path)) return true;
    path.pop_back();
  }
  return false;
}

// Whether one of the frames has the function's code among its constants.
bool IsMadeBy(const std::vector<LiveFrame*>& frames, PyObject* function) {
  PyObject* code = PyFunction_GET_CODE(function);
  return std::any_of(frames.begin(), frames.end(), [&](const LiveFrame* frame) {
    PyObject* consts = frame->code->co_consts;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(consts); ++i) {
      if (PyTuple_GET_ITEM(consts, i) == code) return true;
    }
    return false;
  });
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

// No instruction will read it, but the program can tell when it dies.
bool IsCarriedDead(PyObject* object) {
  return DeathIsSeen(object) && IsPythonClass(Py_TYPE(object)) && !IsTensor(object);
}

// The __exit__ of a lock that the recording has not taken (GuardsReads of call_models.cc): nothing may be left in
// between.
bool IsExitOfLock(PyObject* value) {
  if (!PyCFunction_Check(value) || PyCFunction_GET_SELF(value) == nullptr) return false;
  const std::string_view type = Py_TYPE(PyCFunction_GET_SELF(value))->tp_name;
  return (type == "_thread.lock" || type == "_thread.RLock") &&
         std::string_view(reinterpret_cast<PyCFunctionObject*>(value)->m_ml->ml_name) == "__exit__";
}

}  // namespace

bool RecorderState::Impl::BeginInstruction(int offset, int64_t number) {
  LiveFrame& frame = *frames.back();
  frame.offset = offset;
  frame.instruction = number;
  if (recording->graph_break.has_value()) {  // by what raises nothing
    PyErr_SetString(PyExc_SystemError, "framejit: the recording broke");
    return false;
  }
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

// The instruction being executed and the calls that led there, outwards.
std::vector<StopPoint> RecorderState::Impl::DirectStops() const {
  std::vector<StopPoint> stops;
  size_t direct = frames.empty() ? 0 : 1;
  while (direct < frames.size() && frames[direct]->is_direct) ++direct;
  while (direct-- > 0) {
    const LiveFrame& frame = *frames[direct];
    stops.push_back(
        {frame.instruction, PyRef::Borrow(reinterpret_cast<PyObject*>(frame.code)), frame.offset, asks_what_lives});
  }
  return stops;
}

// The earliest raise of the exceptions being handled that this recording caught, or null. Such an exception cannot be
// rebuilt, since its traceback names frames: the instruction that raised it runs natively.
const std::vector<StopPoint>* RecorderState::Impl::RaiseOfHandled() const {
  const std::vector<StopPoint>* earliest = nullptr;
  for (_PyErr_StackItem* item = PyThreadState_Get()->exc_info; item != nullptr; item = item->previous_item) {
    // What the handlers around handle is what exceptions raised in a handler have as their context.
    PyObject* handled = item->exc_value;
    for (int depth = 0; handled != nullptr && handled != Py_None && depth < kMaxHandlers; ++depth) {
      auto row = caught.find(handled);
      if (row == caught.end() || row->second.empty()) break;
      if (earliest == nullptr || row->second.back().instruction < earliest->back().instruction) earliest = &row->second;
      PyRef context = PyRef::Steal(PyException_GetContext(handled));
      handled = context.get();
    }
  }
  return earliest;
}

// Adds earlier instructions of the entry frame, for the case that something which is alive at the stops cannot be
// rebuilt.
std::vector<StopPoint> RecorderState::Impl::WithEarlierStops(std::vector<StopPoint> stops) {
  const CodeAnalysis* analysis = request.resumes->Analyze(entry_code);
  const int64_t limit = stops.empty() ? INT64_MAX : stops.back().instruction;
  for (auto row = root_instructions.rbegin(); analysis != nullptr && row != root_instructions.rend(); ++row) {
    const int index = analysis->decoded.IndexCovering(row->second);
    if (row->first >= limit || index < 0 || !MayMakeObjects(analysis->decoded[index].info().name)) continue;
    stops.push_back({row->first, PyRef::Borrow(reinterpret_cast<PyObject*>(entry_code)), row->second, asks_what_lives});
  }
  if (stops.size() > kMaxStops) stops.erase(stops.begin() + kMaxStops, stops.end());
  return stops;
}

// Where the recording breaks, or where it raised what is being handled there; then earlier instructions.
std::vector<StopPoint> RecorderState::Impl::PossibleStops() {
  if (request.resumes == nullptr || request.stop.has_value() || entry_code == nullptr) return {};
  const std::vector<StopPoint>* raise = RaiseOfHandled();
  return WithEarlierStops(raise != nullptr ? *raise : DirectStops());
}

void RecorderState::Impl::NoteRaise() {
  // How deep the caller is no guard says.
  if (PyErr_ExceptionMatches(PyExc_RecursionError) != 0) return Break(BreakCode::kTooDeep, "a RecursionError");
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  const bool anew = traceback == nullptr;  // else it came from an inner frame, or was raised before
  PyErr_Restore(type, value, traceback);
  if (!anew || request.resumes == nullptr || request.stop.has_value()) return;
  last_raise = DirectStops();
  raised_anew = true;
}

void RecorderState::Impl::NoteCaught(PyObject* exception) {
  if (std::exchange(raised_anew, false)) {
    caught[exception] = std::move(last_raise);
  } else {
    caught.try_emplace(exception);
  }
}

// Where the exception that leaves the entry frame was raised. That instruction runs natively; where nothing was
// recorded before it, so does everything.
std::vector<StopPoint> RecorderState::Impl::StopsOfRaise(PyObject* exception) {
  if (request.resumes == nullptr || request.stop.has_value() || session.graph().nodes.empty()) return {};
  // What was raised last and not caught since; else it was caught and raised again.
  auto row = caught.find(exception);
  const std::vector<StopPoint>* raise = raised_anew ? &last_raise : row != caught.end() ? &row->second : nullptr;
  return raise == nullptr || raise->empty() ? std::vector<StopPoint>() : WithEarlierStops(*raise);
}

void RecorderState::Impl::StopHere() {
  const LiveFrame& innermost = *frames.back();
  if (reinterpret_cast<PyObject*>(innermost.code) != request.stop->code.get() ||
      innermost.offset != request.stop->offset) {
    return Break(BreakCode::kInternalError, "the second recording took another way");
  }
  left.resize(frames.size());
  PyObject* handled = HandledException();
  for (size_t depth = frames.size(); depth-- > 0;) {
    if (!LeaveFrame(depth, &handled)) return Break(BreakCode::kUnsupportedOutput, "a frame that cannot be left");
  }
  CarryReferred();
  if (handled != handled_exception) return Break(BreakCode::kUnsupportedOutput, "the exception being handled");
  stopped = true;
  PyErr_SetString(PyExc_SystemError, "framejit: the recording ends here");
}

// Objects of dead variables that the state holds anyway: what goes on may refer to them weakly, and expects the
// variable to keep them alive.
void RecorderState::Impl::CarryReferred() {
  // Of what nobody has read it is not known which of it is one object.
  absl::flat_hash_set<PyObject*> held;
  absl::flat_hash_set<SourceId> held_unread;
  for (const LeftFrame& state : left) {
    for (const PyRef& item : state.items) {
      if (IsUnread(item.get()))
        held_unread.insert(UnreadSource(item.get()));
      else
        held.insert(item.get());
    }
  }
  for (size_t depth = 0; depth < left.size(); ++depth) {
    LeftFrame& state = left[depth];
    for (int slot = 0; slot < frames[depth]->code->co_nlocalsplus; ++slot) {
      PyObject* value = frames[depth]->locals[slot];
      std::vector<int>& slots = state.point.slots;
      if (value == nullptr || std::find(slots.begin(), slots.end(), slot) != slots.end()) continue;
      const bool unread = IsUnread(value);
      if (unread ? !held_unread.contains(UnreadSource(value)) : !held.contains(value)) continue;
      PyObject* object = unread ? UnreadValue(value) : value;
      PyTypeObject* type = Py_TYPE(object);
      // No guard says what it is; here its type decides.
      if (unread) AddGuard(GuardKind::kTypeIs, UnreadSource(value), reinterpret_cast<PyObject*>(type));
      if (!IsPythonClass(type) || !PyType_SUPPORTS_WEAKREFS(type) || IsTensor(object)) continue;
      state.items.insert(state.items.begin() + static_cast<std::ptrdiff_t>(slots.size()), PyRef::Borrow(value));
      slots.push_back(slot);
    }
  }
}

// `handled`: what is handled when this frame is the innermost one, and then what was when it started.
bool RecorderState::Impl::LeaveFrame(size_t depth, PyObject** handled) {
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
  if (!analysis->reentries->CanEnter(state.point.target)) return false;
  std::vector<int> slots = analysis->LiveSlots(index);
  const auto starts_debugger = [](const LiveFrame* live) { return StartsDebugger(live->code); };
  if (request.stop->carries_dead || std::any_of(frames.begin(), frames.end(), starts_debugger)) {
    slots.resize(static_cast<size_t>(frame.code->co_nlocalsplus));
    std::iota(slots.begin(), slots.end(), 0);
  }
  for (int slot = 0; slot < frame.code->co_nlocalsplus; ++slot) {
    PyObject* value = frame.locals[slot];
    const bool is_live = std::find(slots.begin(), slots.end(), slot) != slots.end();
    if (value == nullptr || (!is_live && !IsCarriedDead(IsUnread(value) ? UnreadValue(value) : value))) continue;
    state.point.slots.push_back(slot);
    state.items.push_back(PyRef::Borrow(value));
  }
  const std::vector<int> saved = analysis->reentries->SavedAt(state.point.target);
  if (!LeaveStack(state, depth, *analysis, index)) return false;
  state.point.handles = !saved.empty();
  if (saved.empty()) return true;
  if (*handled == nullptr) return false;
  state.items.push_back(PyRef::Borrow(*handled));
  PyObject* before = frame.stack_base[saved.front()];
  *handled = before == Py_None ? nullptr : before;
  return true;
}

// Whether nothing but the value stack of the frame holds the iterator, once the frames are left: dead variables and the
// operands of the calls in progress are not carried.
bool RecorderState::Impl::IsOwnedIterator(size_t depth, PyObject* value, const std::vector<int>& live) const {
  if (IsUnread(value)) return owned_iterators.contains(UnreadSource(value));
  if (!IsPlainIterator(value)) return false;
  Py_ssize_t holders = 1;
  const LiveFrame& frame = *frames[depth];
  for (int slot = 0; slot < frame.code->co_nlocalsplus; ++slot) {
    const bool is_live = std::find(live.begin(), live.end(), slot) != live.end();
    if (frame.locals[slot] == value && !is_live) ++holders;
  }
  for (size_t outer = 0; outer < depth; ++outer) {
    const CodeAnalysis* analysis = request.resumes->Analyze(frames[outer]->code);
    const int call = analysis == nullptr ? -1 : analysis->decoded.IndexCovering(frames[outer]->offset);
    if (call < 0) return false;
    PyObject** operands = frames[outer]->stack_base + analysis->DepthWithoutOperands(call);
    holders += std::count(operands, *frames[outer]->stack_top, value);
  }
  return Py_REFCNT(value) == holders;
}

bool RecorderState::Impl::LeaveStack(LeftFrame& state, size_t depth, const CodeAnalysis& analysis, int index) {
  const LiveFrame& frame = *frames[depth];
  const bool innermost = depth + 1 == frames.size();
  const int values = innermost ? analysis.reentries->DepthAt(index) : analysis.DepthWithoutOperands(index);
  if (values < 0 || (innermost && values != *frame.stack_top - frame.stack_base)) return false;
  const std::vector<int> saved = analysis.reentries->SavedAt(state.point.target);
  const std::vector<int> lastis = analysis.reentries->LastisAt(state.point.target);
  const std::vector<int> live = analysis.LiveSlots(index);
  for (int i = 0; i < values; ++i) {
    PyObject* value = frame.stack_base[i];
    if (value != nullptr && IsExitOfLock(value)) return false;
    const bool is_lasti = std::find(lastis.begin(), lastis.end(), i) != lastis.end();
    state.point.stack.push_back(value == nullptr                      ? StackItem::kNull
                                : is_lasti                            ? StackItem::kLasti
                                : IsOwnedIterator(depth, value, live) ? StackItem::kIterator
                                                                      : StackItem::kValue);
    if (value == nullptr) continue;
    const bool is_outer = !saved.empty() && saved.front() == i;
    state.items.push_back(PyRef::Borrow(is_outer ? Py_None : value));
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
  if (EnterStack(point, state, frame) != 0) return -1;
  for (int slot : SlotsOfSuper(point.code)) {
    PyObject** place = &frame.locals[slot];
    if (*place != nullptr && IsUnread(*place) && Read(place) != 0) return -1;
  }
  return 0;
}

// Saved exceptions are put where PUSH_EXC_INFO puts them, so that C code finds what is handled where it looks.
int RecorderState::Impl::EnterStack(const ResumePoint& point, PyObject* state, LiveFrame& frame) {
  const SourceId base = StateSource(state);
  const std::vector<int> saved = request.resumes->Analyze(point.code)->reentries->SavedAt(point.target);
  auto source_of = [&](int item) { return Intern(SourceKind::kTupleItem, base, nullptr, item); };
  // What the handler that saved a value handles: the next one's saved value, at last the exception of the state.
  auto handled_by = [&](size_t handler) {
    int item = static_cast<int>(point.slots.size());
    const int end = handler + 1 < saved.size() ? saved[handler + 1] : static_cast<int>(point.stack.size());
    for (int i = 0; i < end; ++i) item += point.stack[static_cast<size_t>(i)] == StackItem::kNull ? 0 : 1;
    return item;
  };
  int next = static_cast<int>(point.slots.size());
  for (int i = 0; i < static_cast<int>(point.stack.size()); ++i) {
    const StackItem item = point.stack[static_cast<size_t>(i)];
    PyObject* held = item == StackItem::kNull ? nullptr : PyTuple_GET_ITEM(state, next);
    if (auto row = std::find(saved.begin(), saved.end(), i); row != saved.end()) {
      const int exception = handled_by(static_cast<size_t>(row - saved.begin()));
      if (EnterHandler(PyTuple_GET_ITEM(state, exception), source_of(exception), frame.stack_top) != 0) return -1;
    } else if (held == nullptr) {
      *(*frame.stack_top)++ = nullptr;
    } else {
      const bool advance = item == StackItem::kIterator && request.advance_iterators;
      recording->at_position |= advance;
      if (item == StackItem::kIterator && !advance) owned_iterators.insert(source_of(next));
      PyObject* value = advance ? LiftIterator(held, source_of(next)) : NewUnread(held, source_of(next));
      if (value == nullptr) return -1;
      *(*frame.stack_top)++ = value;
    }
    next += held == nullptr ? 0 : 1;
  }
  return 0;
}

// As PUSH_EXC_INFO, less the exception itself.
int RecorderState::Impl::EnterHandler(PyObject* exception, SourceId source, PyObject*** stack_top) {
  PyObject* lifted = Lift(Py_NewRef(exception), source);
  if (lifted == nullptr) return -1;
  PyObject** slot = ShimHandledExceptionSlot(PyThreadState_Get());
  PyObject* before = std::exchange(*slot, lifted);
  *(*stack_top)++ = before != nullptr ? before : Py_NewRef(Py_None);
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

int RecorderState::Impl::CheckContent(PyObject* exception) {
  const SourceId source = SourceOf(exception);
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(request.function));
  const bool is_segment =
      request.varying != nullptr && request.resumes != nullptr && request.resumes->Find(code) != nullptr;
  if (source == kNoSource || !is_segment) return 0;
  VaryingItems::Path path = PathInState(source);
  const bool is_item = !path.empty();
  path.push_back(VaryingItems::kArgs);
  if (is_item && !request.varying->Contains(path)) return 0;
  return BreakInt(BreakCode::kVaryingValue, std::string("what a ") + Py_TYPE(exception)->tp_name + " says");
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
             (reinterpret_cast<PyFunctionObject*>(value)->func_closure != nullptr || IsMadeBy(frames, value))) {
    // Made by the frames that were left, so another one on each call: what counts is its code; its cells have sources.
    AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(&PyFunction_Type));
    AddGuard(GuardKind::kFunctionCode, source, PyFunction_GET_CODE(value));
    Remember(value, value, source, false);
    lifted = Py_NewRef(value);
  } else if (request.varying != nullptr && !(request.sizes != nullptr && request.sizes->OpensItem(value)) &&
             Varies(*request.varying, value, PathInState(source))) {
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
