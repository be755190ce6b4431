// RecorderState: forwards to its implementation; breaks, and where in the user's program the recording is.
#include "graph/capture/recorder_state.h"

#include <string_view>

#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

// Frames of torch itself do not say where in the user's program an operator came from.
bool IsLibraryFile(std::string_view file) {
  return file.find("/torch/") != std::string_view::npos || file.find("/framejit/") != std::string_view::npos ||
         file.starts_with("<frozen");
}

std::string_view FileOf(PyCodeObject* code) {
  const char* file = PyUnicode_AsUTF8(code->co_filename);
  if (file == nullptr) PyErr_Clear();
  return file == nullptr ? "?" : file;
}

SourceLocation LocationOf(const LiveFrame& frame) {
  const char* name = PyUnicode_AsUTF8(frame.code->co_qualname);
  if (name == nullptr) PyErr_Clear();
  return {std::string(FileOf(frame.code)), PyCode_Addr2Line(frame.code, frame.offset * 2),
          name == nullptr ? "?" : name};
}

}  // namespace

RecorderState::Impl::Impl(const RecordRequest& record_request)
    : request(record_request), recording(std::make_unique<Recording>()) {
  FakeSession::SetArmFunction(&RecordingHook::Arm);
  ResolveCallables();
  known.reserve(1024);
  SaveTorchState();
  handled_exception = HandledException();
  if (request.sizes != nullptr && request.sizes->is_open() && request.data != RecordRequest::Data::kNever)
    session.KeepInputs();
  AddGuard(GuardKind::kTorchState, kNoSource);
}

RecorderState::Impl::~Impl() { RestoreTorchState(); }

void RecorderState::Impl::Break(BreakCode code, std::string detail) {
  if (!broken()) {
    recording->graph_break = framejit::Break{code, std::move(detail), Stack()};
    recording->stops = PossibleStops();
  }
  PyErr_SetString(PyExc_SystemError, "framejit: the recording broke");
}

std::vector<SourceLocation> RecorderState::Impl::Stack() const {
  std::vector<SourceLocation> stack;
  for (const LiveFrame* frame : frames) stack.push_back(LocationOf(*frame));
  return stack;
}

// CPython walks the table from its beginning for each line that it is asked for.
const RecorderState::Impl::CodeFacts& RecorderState::Impl::FactsOf(PyCodeObject* code, bool spans) {
  auto [row, is_new] = code_facts.try_emplace(code);
  CodeFacts& facts = row->second;
  if (is_new) {
    facts.is_library = IsLibraryFile(FileOf(code));
    kept_alive.push_back(PyRef::Borrow(reinterpret_cast<PyObject*>(code)));
  }
  if (spans && facts.spans.empty()) {
    const std::string_view table(PyBytes_AS_STRING(code->co_linetable),
                                 static_cast<size_t>(PyBytes_GET_SIZE(code->co_linetable)));
    if (auto parsed = ParseLocationTable(table, code->co_firstlineno, static_cast<int>(Py_SIZE(code))); parsed.ok())
      facts.spans = *std::move(parsed);
  }
  return facts;
}

int32_t RecorderState::Impl::CurrentLocation() {
  const LiveFrame* best = nullptr;
  for (auto row = frames.rbegin(); row != frames.rend(); ++row) {
    const LiveFrame* frame = *row;
    if (best == nullptr) best = frame;
    if (!FactsOf(frame->code, /*spans=*/false).is_library) {
      best = frame;
      break;
    }
  }
  if (best == nullptr) return -1;
  const std::vector<SourceSpan>& spans = FactsOf(best->code, /*spans=*/true).spans;
  const auto unit = static_cast<size_t>(best->offset);
  const int line = unit < spans.size() ? spans[unit].line : PyCode_Addr2Line(best->code, best->offset * 2);
  auto [row, inserted] = locations.try_emplace(std::pair(best->code, line), -1);
  if (inserted) {
    row->second = static_cast<int32_t>(session.graph().locations.size());
    session.graph().locations.push_back(LocationOf(*best));
  }
  return row->second;
}

// torch.optim computes something else under torch.compiler.is_compiling().
bool RecorderState::Impl::InOptimizer() const {
  for (const LiveFrame* frame : frames) {
    if (FileOf(frame->code).find("/torch/optim/") != std::string_view::npos) return true;
  }
  return false;
}

RecorderState::RecorderState(const RecordRequest& request)
    : max_instructions(request.max_instructions),
      max_depth(request.max_depth),
      impl_(std::make_unique<Impl>(request)) {}
RecorderState::~RecorderState() = default;

void RecorderState::Break(BreakCode code, std::string detail) { impl_->Break(code, std::move(detail)); }
bool RecorderState::broken() const { return impl_->broken(); }
bool RecorderState::dropping() const { return impl_->dropping; }
void RecorderState::PushFrame(LiveFrame* frame) {
  frame->is_direct = std::exchange(impl_->direct_call, false);
  frame->is_own_call = std::exchange(impl_->own_call, false) || impl_->frames.empty();
  if (impl_->frames.empty() && impl_->entry_code == nullptr) impl_->entry_code = frame->code;
  impl_->frames.push_back(frame);
}
void RecorderState::PopFrame() { impl_->frames.pop_back(); }
void RecorderState::ForgetDirectCall() { impl_->direct_call = impl_->own_call = false; }
void RecorderState::GiveResult(const LiveFrame& frame, PyObject* value) {
  if (!frame.is_own_call) impl_->Specialise(value);
}
void RecorderState::ResumeGenerator() { impl_->own_call = true; }
void RecorderState::UseAsKey(PyObject* object) { impl_->UseAsKey(object); }
void RecorderState::NoteRaise() { impl_->NoteRaise(); }
void RecorderState::NoteCaught(PyObject* exception) { impl_->NoteCaught(exception); }
bool RecorderState::HasCaught(PyObject* exception) const { return impl_->caught.contains(exception); }
bool RecorderState::IsOutside(PyObject* object) { return impl_->IsOutside(object); }
bool RecorderState::BeginInstruction(int offset) {
  if (++stats.instructions >= max_instructions) {
    impl_->Break(BreakCode::kTooManyInstructions, "");
    return false;
  }
  return impl_->BeginInstruction(offset, stats.instructions);
}

const ResumedCode* RecorderState::ResumedCodeOf(PyCodeObject* code) const {
  return impl_->request.resumes == nullptr ? nullptr : impl_->request.resumes->Find(code);
}
const CodeAnalysis* RecorderState::Analyze(PyCodeObject* code) { return impl_->request.resumes->Analyze(code); }
int RecorderState::EnterResumed(const ResumePoint& point, PyObject* state, LiveFrame& frame) {
  return impl_->EnterResumed(point, state, frame);
}
PyObject* RecorderState::CallInner(const ResumePoint& point, PyObject* state) { return impl_->CallInner(point, state); }
int RecorderState::Read(PyObject** place) { return impl_->Read(place); }
int RecorderState::UnpackUnread(PyObject* unread, int size, PyObject*** stack_top) {
  return impl_->UnpackUnread(unread, size, stack_top);
}

PyObject* RecorderState::Lift(PyObject* value, SourceId source) { return impl_->Lift(value, source); }
PyObject* RecorderState::LiftPinned(PyObject* value, SourceId source) { return impl_->Lift(value, source, true); }
SourceTable& RecorderState::sources() { return impl_->recording->sources; }
int RecorderState::LiftFrameArguments(PyFunctionObject* function, PyObject** slots) {
  return impl_->LiftFrameArguments(function, slots);
}
int RecorderState::LiftEntryArguments(PyFunctionObject* function, PyObject** slots) {
  return impl_->LiftEntryArguments(function, slots);
}

PyObject* RecorderState::GetAttr(PyObject* object, PyObject* name) { return impl_->GetAttr(object, name); }
int RecorderState::GetMethod(PyObject* object, PyObject* name, PyObject** method) {
  return impl_->GetMethod(object, name, method);
}
int RecorderState::SetAttr(PyObject* object, PyObject* name, PyObject* value) {
  return impl_->SetAttr(object, name, value);
}
PyObject* RecorderState::GetItem(PyObject* container, PyObject* key) { return impl_->GetItem(container, key); }
int RecorderState::SetItem(PyObject* container, PyObject* key, PyObject* value) {
  return impl_->SetItem(container, key, value);
}
int RecorderState::DelItem(PyObject* container, PyObject* key) { return impl_->DelItem(container, key); }
int RecorderState::IsTrue(PyObject* object) { return impl_->IsTrue(object); }
int RecorderState::Contains(PyObject* container, PyObject* value) { return impl_->Contains(container, value); }
Py_ssize_t RecorderState::Length(PyObject* object) { return impl_->Length(object); }
PyObject* RecorderState::GetIter(PyObject* object) { return impl_->GetIter(object); }
PyObject* RecorderState::IterNext(PyObject* iterator) { return impl_->IterNext(iterator); }
PyObject* RecorderState::Binary(int op, PyObject* left, PyObject* right) { return impl_->Binary(op, left, right); }
PyObject* RecorderState::Unary(UnaryOperator op, PyObject* object) { return impl_->Unary(op, object); }
PyObject* RecorderState::RichCompare(PyObject* left, PyObject* right, int op) {
  return impl_->RichCompare(left, right, op);
}
int RecorderState::Is(PyObject* left, PyObject* right) { return impl_->Is(left, right); }
PyObject* RecorderState::Call(PyObject* callable, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  ++stats.calls;
  impl_->tail_call = true;
  return impl_->Call(callable, args, nargs, kwnames);
}
PyObject* RecorderState::Format(PyObject* value, int conversion, PyObject* spec) {
  return impl_->Format(value, conversion, spec);
}
PyObject* RecorderState::ImportName(PyObject* name, PyObject* globals, PyObject* fromlist, PyObject* level) {
  return impl_->ImportName(name, globals, fromlist, level);
}
PyObject* RecorderState::LookupSpecial(PyObject* object, PyObject* name) { return impl_->LookupSpecial(object, name); }
PyObject* RecorderState::AsTuple(PyObject* sequence) { return impl_->AsTuple(sequence); }

PyObject* RecorderState::LoadGlobal(PyObject* globals, PyObject* builtins, PyObject* name) {
  return impl_->LoadGlobal(globals, builtins, name);
}
int RecorderState::StoreGlobal(PyObject* globals, PyObject* name, PyObject* value) {
  return impl_->StoreGlobal(globals, name, value);
}
PyObject* RecorderState::LoadCell(PyObject* cell, PyFunctionObject* function, int index) {
  return impl_->LoadCell(cell, function, index);
}
int RecorderState::StoreCell(PyObject* cell, PyFunctionObject* function, int index, PyObject* value) {
  return impl_->StoreCell(cell, function, index, value);
}
void RecorderState::NewLocalCell(PyObject* cell) {
  if (impl_->local_cells.insert(cell).second) impl_->kept_alive.push_back(PyRef::Borrow(cell));
}
void RecorderState::NewLocal(PyObject* object) {
  if (PyGen_CheckExact(object)) impl_->NoteFinalizable(object);
  if (!PyFunction_Check(object)) return;
  if (impl_->local_functions.insert(object).second) impl_->kept_alive.push_back(PyRef::Borrow(object));
}

void RecorderState::ExtendBuilt(PyObject* container) {
  if (Shadow* shadow = impl_->FindShadow(container)) impl_->Touch(*shadow);
}

int RecorderState::PrepareForC(PyObject* object) { return impl_->Prepare(object); }
PyObject* RecorderState::Scan(PyObject* result) { return impl_->Scan(result); }

std::unique_ptr<Recording> RecorderState::Finish(PyObject* result) {
  std::unique_ptr<Recording> recording = impl_->Finish(result);
  recording->stats = stats;
  recording->stats.guards_before_deduplication = impl_->guards_added;
  recording->stats.nodes = static_cast<int64_t>(recording->graph.nodes.size());
  return recording;
}

FakeSession& RecorderState::session() { return impl_->session; }

}  // namespace framejit
