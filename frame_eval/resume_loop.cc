#include "frame_eval/resume_loop.h"

#include <structmember.h>

#include <algorithm>
#include <utility>

#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/lifetime.h"
#include "frame_eval/cpython/recursion.h"
#include "frame_eval/entry.h"
#include "frame_eval/guards/iterators.h"

namespace framejit {
namespace {

struct ReentryObject {
  PyObject_HEAD vectorcallfunc vectorcall;
  Reentry* reentry;
  const ResumeTable* table;  // compared, never used
};

// Frames that wait for one another when one is left. Behind it the program recurses, and each depth would be a segment.
constexpr size_t kMaxLevels = 100;

PyTypeObject* reentry_type = nullptr;
PyObject* marker = nullptr;
PyObject* unpacked = nullptr;
thread_local ResumeLoop* current_loop = nullptr;

PyObject* CallReentry(PyObject* self, PyObject* const*, size_t, PyObject*) {
  auto* hook = reinterpret_cast<ReentryObject*>(self);
  ResumeLoop* loop = ResumeLoop::Current();
  if (loop == nullptr || loop->table() != hook->table || !loop->Leave(*hook->reentry)) Py_RETURN_NONE;
  return Py_NewRef(marker);
}

PyObject* CallUnpacked(PyObject*, PyObject*) {
  if (ResumeLoop* loop = ResumeLoop::Current(); loop != nullptr) loop->Unpacked();
  Py_RETURN_NONE;
}

PyMethodDef unpacked_definition = {"unpacked", CallUnpacked, METH_NOARGS, nullptr};

void DeallocateReentry(PyObject* self) {
  delete reinterpret_cast<ReentryObject*>(self)->reentry;
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMemberDef reentry_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(ReentryObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot reentry_slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(DeallocateReentry)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_members, reentry_members},
    {0, nullptr},
};

PyType_Spec reentry_spec = {
    "framejit._C.Reentry",
    sizeof(ReentryObject),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    reentry_slots,
};

PyRef NewReentry(const ResumeTable* table, Reentry reentry) {
  auto* hook = PyObject_New(ReentryObject, reentry_type);
  if (hook == nullptr) return PyErr_Clear(), PyRef();
  hook->vectorcall = CallReentry;
  hook->reentry = new Reentry(std::move(reentry));
  hook->table = table;
  return PyRef::Steal(reinterpret_cast<PyObject*>(hook));
}

// Iterators that a recording can take apart, of which nobody has a reference but the frame and the state it was entered
// with (null: let go of).
bool IsOwnedIterator(PyObject* object, PyObject* state) {
  Py_ssize_t holders = 1;
  for (Py_ssize_t i = 0; state != nullptr && i < PyTuple_GET_SIZE(state); ++i)
    holders += PyTuple_GET_ITEM(state, i) == object ? 1 : 0;
  return Py_REFCNT(object) == holders && IsPlainIterator(object);
}

// The state of a frame that waits: what it holds itself, and its inner frame.
PyRef WithInner(PyObject* own, PyObject* function, PyObject* inner_state) {
  const Py_ssize_t size = PyTuple_GET_SIZE(own);
  PyRef state = PyRef::Steal(PyTuple_New(size + 2));
  if (!state) return state;
  for (Py_ssize_t i = 0; i < size; ++i) PyTuple_SET_ITEM(state.get(), i, Py_NewRef(PyTuple_GET_ITEM(own, i)));
  PyTuple_SET_ITEM(state.get(), size, Py_NewRef(function));
  PyTuple_SET_ITEM(state.get(), size + 1, Py_NewRef(inner_state));
  return state;
}

PyObject* CallFromC(PyObject* function, PyObject* argument) {
  PythonCallFromC scope;
  return scope.allowed() ? PyObject_Vectorcall(function, &argument, 1, nullptr) : nullptr;
}

PyCodeObject* CodeOf(const PyRef& function) {
  return reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function.get()));
}

PyObject* CopyTuple(PyObject* tuple) {
  const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
  PyObject* copy = PyTuple_New(size);
  for (Py_ssize_t i = 0; copy != nullptr && i < size; ++i)
    PyTuple_SET_ITEM(copy, i, Py_NewRef(PyTuple_GET_ITEM(tuple, i)));
  return copy;
}

bool Contains(const std::vector<int>& values, int value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

bool InitializeResumeLoop() {
  reentry_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&reentry_spec));
  marker = PyObject_CallNoArgs(reinterpret_cast<PyObject*>(&PyBaseObject_Type));
  unpacked = PyCFunction_New(&unpacked_definition, nullptr);
  return reentry_type != nullptr && marker != nullptr && unpacked != nullptr;
}

std::shared_ptr<ResumeTable> NewResumeTable() {
  // The hooks name the table without holding it: it holds them.
  auto place = std::make_shared<const ResumeTable*>(nullptr);
  auto table =
      std::make_shared<ResumeTable>([place](Reentry reentry) { return NewReentry(*place, std::move(reentry)); },
                                    PyRef::Borrow(marker), PyRef::Borrow(unpacked));
  *place = table.get();
  return table;
}

ResumeLoop* ResumeLoop::Current() { return current_loop; }

ResumeLoop::ResumeLoop(PyObject* root, std::shared_ptr<ResumeTable> table)
    : root_(root),
      table_(std::move(table)),
      previous_(std::exchange(current_loop, this)),
      base_frame_(ShimThreadFrame(PyThreadState_Get())),
      handled_exception_(HandledException()) {}

ResumeLoop::~ResumeLoop() { current_loop = previous_; }

PyObject* ResumeLoop::Run(PyRef function, PyRef state) {
  for (;;) {
    SetLevels(function, state);
    // The frame has a reference of its own; ours goes in Unpacked.
    state_ = std::move(state);
    PyRef own = WithOwnOffsets(function, state_);
    if (!own) return nullptr;
    state_ = std::move(own);
    PyObject* argument = state_.get();
    PyObject* result = nullptr;
    {
      Unarmed entering;
      Armed armed(InnerEntriesOf(root_), CodeOf(function));
      armed_ = &armed;
      result = CallFromC(function.get(), argument);
      armed_ = nullptr;
    }
    if (result != marker) return result;
    Py_DECREF(result);
    ClearFrameObjects();
    PyRef segment = std::move(pending_segment_);
    state = std::move(pending_state_);
    PyObject* slot = state.get();
    EntryStep step = RunEntry(segment.get(), CallState{EntryFunction(segment.get()), absl::MakeConstSpan(&slot, 1)});
    if (step.kind == EntryStep::Kind::kReturned) return step.result.release();
    stays_native_ = step.kind == EntryStep::Kind::kNative;
    function = stays_native_ ? PyRef::Borrow(EntryFunction(segment.get())) : std::move(step.function);
    if (!stays_native_) state = std::move(step.result);
  }
}

// Objects live no longer than in the interpreter. Where frames wait, those have what their states hold.
void ResumeLoop::Unpacked() {
  if (levels_.empty()) return;
  PyRef whole = std::move(state_);
  PyRef innermost = std::move(levels_.back().state);
  // Not before: with the hook installed, a frame that calls another keeps what it hands over until that one returns.
  armed_->Begin(/*is_next=*/false);
}

// Offsets of instructions that raised, for the code that is entered. Null with an exception set.
PyRef ResumeLoop::WithOwnOffsets(const PyRef& function, const PyRef& state) const {
  const ResumedCode* code = table_->Find(CodeOf(function));
  if (code == nullptr) return state;
  const ResumePoint& point = *code->point;
  PyRef own = state;
  auto set = [&](Py_ssize_t place, PyRef item) {
    if (own.get() == state.get()) own = PyRef::Steal(CopyTuple(state.get()));
    if (!own || !item) return own = PyRef(), false;
    Py_SETREF(PyTuple_GET_ITEM(own.get(), place), item.release());
    return true;
  };
  auto place = static_cast<Py_ssize_t>(point.slots.size());
  for (StackItem item : point.stack) {
    if (item == StackItem::kLasti) {
      const long offset = PyLong_AsLong(PyTuple_GET_ITEM(state.get(), place));
      const bool known = offset >= 0 && offset < static_cast<long>(code->offsets.size());
      if (!set(place, PyRef::Steal(PyLong_FromLong(known ? code->offsets[static_cast<size_t>(offset)] : 0))))
        return own;
    }
    place += item == StackItem::kNull ? 0 : 1;
  }
  if (!point.waits()) return own;
  const Py_ssize_t last = PyTuple_GET_SIZE(state.get()) - 1;
  PyRef inner = PyRef::Borrow(PyTuple_GET_ITEM(state.get(), last));
  PyRef inner_own = WithOwnOffsets(PyRef::Borrow(PyTuple_GET_ITEM(state.get(), last - 1)), inner);
  if (inner_own.get() != inner.get()) set(last, std::move(inner_own));
  return own;
}

void ResumeLoop::SetLevels(PyRef function, PyRef state) {
  std::vector<Level> old = std::move(levels_);
  levels_.clear();
  for (;;) {
    const ResumedCode* code = table_->Find(CodeOf(function));
    if (code == nullptr || !code->point->waits()) return levels_.push_back({function, state});
    const Py_ssize_t size = PyTuple_GET_SIZE(state.get());
    levels_.push_back({function, PyRef::Steal(PyTuple_GetSlice(state.get(), 0, size - 2))});
    function = PyRef::Borrow(PyTuple_GET_ITEM(state.get(), size - 2));
    state = PyRef::Borrow(PyTuple_GET_ITEM(state.get(), size - 1));
  }
}

// Which of `levels_` the running frame is.
int ResumeLoop::CurrentLevel(ShimFrame* frame) const {
  int level = -1;
  for (; frame != nullptr && frame != base_frame_; frame = ShimFramePrevious(frame)) {
    if (table_->Find(ShimFrameCode(frame)) != nullptr) ++level;
  }
  return level;
}

bool ResumeLoop::Capture(const Reentry& reentry, ShimFrame* running, PyObject* entered_with, ResumePoint* point,
                         PyRef* state) const {
  FrameView frame(running);
  std::vector<PyObject*> items;
  point->code = reentry.code;
  point->globals = reentry.globals;
  point->target = reentry.target;
  for (int slot = 0; slot < reentry.code->co_nlocalsplus; ++slot) {
    PyObject* value = frame.localsplus()[reentry.first_slot + slot];
    if (value == nullptr || (!Contains(reentry.live, slot) && !DeathIsSeen(value))) continue;
    point->slots.push_back(slot);
    items.push_back(value);
  }
  const ResumedCode* code = table_->Find(frame.code());
  std::vector<PyRef> lastis;
  for (int i = 0; i < reentry.depth; ++i) {
    PyObject* value = frame.stack_base()[i];
    const bool is_lasti = Contains(reentry.lastis, i);
    point->stack.push_back(value == nullptr                       ? StackItem::kNull
                           : is_lasti                             ? StackItem::kLasti
                           : IsOwnedIterator(value, entered_with) ? StackItem::kIterator
                                                                  : StackItem::kValue);
    if (value == nullptr) continue;
    if (is_lasti) {
      lastis.push_back(PyRef::Steal(PyLong_FromLong(code->OriginalOffset(static_cast<int>(PyLong_AsLong(value))))));
      if (!lastis.back()) return false;
      value = lastis.back().get();
    }
    items.push_back(!reentry.saved.empty() && reentry.saved.front() == i ? Py_None : value);
  }
  point->handles = !reentry.saved.empty();
  if (point->handles) items.push_back(HandledException());
  *state = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(items.size())));
  if (!*state) return false;
  for (size_t i = 0; i < items.size(); ++i)
    PyTuple_SET_ITEM(state->get(), static_cast<Py_ssize_t>(i), Py_NewRef(items[i]));
  return true;
}

bool ResumeLoop::Leave(const Reentry& reentry) {
  PyThreadState* thread = PyThreadState_Get();
  ShimFrame* frame = ShimThreadFrame(thread);
  // A tool started in the frame: with an evaluator installed, its Python calls would have the events of C calls.
  if (ShimIsTraced(thread, reentry.code)) SetFrameHandler(nullptr);
  if (stays_native_ || MustRunNatively(reentry.code)) return false;
  if (levels_.size() > kMaxLevels) return false;
  const int level = CurrentLevel(frame);
  if (level < 0 || static_cast<size_t>(level) >= levels_.size() || !HandlesAsEntered(reentry, frame, level))
    return false;
  ResumePoint point;
  PyRef state;
  absl::StatusOr<PyObject*> made = absl::InternalError("");
  if (Capture(reentry, frame, levels_[static_cast<size_t>(level)].state.get(), &point, &state))
    made = table_->FunctionFor(point);
  if (!made.ok()) return PyErr_Clear(), false;
  PyRef function = PyRef::Borrow(*made);
  std::vector<PyObject*> functions{function.get()};
  for (int outer = level - 1; outer >= 0 && state; --outer) {
    const Level& waiting = levels_[static_cast<size_t>(outer)];
    if (!waiting.state) return PyErr_Clear(), false;
    state = WithInner(waiting.state.get(), function.get(), state.get());
    function = waiting.function;
    functions.push_back(function.get());
  }
  PyRef segment = state ? SegmentOf(root_, functions) : PyRef();
  if (!segment) return PyErr_Clear(), false;
  pending_segment_ = std::move(segment);
  pending_state_ = std::move(state);
  KeepFrameObjects(frame);
  return true;
}

// Whether what was handled when the running frame started is what the frames around it handle.
bool ResumeLoop::HandlesAsEntered(const Reentry& reentry, ShimFrame* running, int level) const {
  PyObject* outer = HandledException();
  if (!reentry.saved.empty()) {
    if (outer == nullptr) return false;
    PyObject* before = FrameView(running).stack_base()[reentry.saved.front()];
    outer = before == Py_None ? nullptr : before;
  }
  while (--level >= 0) {
    const Level& waiting = levels_[static_cast<size_t>(level)];
    const ResumePoint& point = *table_->Find(CodeOf(waiting.function))->point;
    if (point.handles) return waiting.state && PyTuple_GET_ITEM(waiting.state.get(), point.own_size() - 1) == outer;
  }
  return outer == handled_exception_;
}

// A traceback may hold the object of a frame that is left. It is not the frame that goes on, and must not keep alive
// what that one lets go of.
void ResumeLoop::KeepFrameObjects(ShimFrame* running) {
  for (ShimFrame* frame = running; frame != nullptr && frame != base_frame_; frame = ShimFramePrevious(frame)) {
    auto* object = reinterpret_cast<PyObject*>(ShimFrameObject(frame));
    if (object != nullptr && table_->Find(ShimFrameCode(frame)) != nullptr)
      left_frames_.push_back(PyRef::Borrow(object));
  }
}

void ResumeLoop::ClearFrameObjects() {
  std::vector<PyRef> frames = std::move(left_frames_);
  left_frames_.clear();
  for (const PyRef& frame : frames) {
    if (!PyRef::Steal(PyObject_CallMethod(frame.get(), "clear", nullptr))) PyErr_Clear();
  }
}

}  // namespace framejit
