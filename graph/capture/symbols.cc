// Numbers that vary from call to call: sizes of tensors whose guards leave them open, ints and floats from outside, and
// what the program computes of them (graph/symbolic/program.h).
//
// A symbol is an int or float object of its own, which the recorder knows wherever it goes. What only moves objects
// about needs no care. What computes is either a step of the symbolic program, or fixes the symbols that it is given:
// that is the rule for all C code that is not known here. Python code that C code calls back gives fixed numbers as
// well.
#include <c10/util/Backtrace.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"
#include "graph/passes/analysis.h"
#include "graph/symbolic/replay.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxVisited = 100'000;

// What a replay would have the engine run for.
bool IsOfAutograd(const TorchCall& call) {
  if (call.kind == TorchCall::Kind::kFunction) {
    const std::optional<Treatment> treatment = FindCallable(call.target.get());
    return treatment == Treatment::kGradient || treatment == Treatment::kBackward ||
           treatment == Treatment::kCheckpoint;
  }
  const char* name = PyUnicode_AsUTF8(call.target.get());
  const std::string_view text = name == nullptr ? "" : name;
  return text == "requires_grad_" || text == "retain_grad" || text == "register_hook" || text == "backward";
}

// Functions of numbers alone, whose results have no part in anything else.
bool ComputesNumbers(PyObject* callable) {
  if (!PyCFunction_Check(callable)) return false;
  PyObject* module = reinterpret_cast<PyCFunctionObject*>(callable)->m_module;
  const char* name = module != nullptr && PyUnicode_Check(module) ? PyUnicode_AsUTF8(module) : nullptr;
  if (name == nullptr) return PyErr_Clear(), false;
  const std::string_view text = name;
  return text == "builtins" || text == "math" || text == "_operator" || text == "cmath";
}

// Whether the argument holds a symbol, or a tensor whose sizes may vary.
bool Varies(const TorchArgument& argument, const absl::flat_hash_map<TorchValueId, SourceId>& fixed) {
  if (argument.kind == Kind::kValue) return !fixed.contains(argument.value);
  return argument.symbol != kNoSymbol || std::any_of(argument.items.begin(), argument.items.end(),
                                                     [&](const TorchArgument& item) { return Varies(item, fixed); });
}

struct Visit {
  std::vector<PyObject*> pending;
  absl::flat_hash_set<PyObject*> seen;
};

int VisitReferent(PyObject* object, void* arg) {
  auto* visit = static_cast<Visit*>(arg);
  if (visit->seen.insert(object).second) visit->pending.push_back(object);
  return 0;
}

}  // namespace

// What tensors say of their sizes. What else a call says that makes no tensor has to stay what it was.
bool TellsSizes(PyObject* target) {
  static constexpr std::array<std::string_view, 6> kNames = {"shape", "size", "numel", "nelement", "stride", "nbytes"};
  PyRef name =
      PyUnicode_Check(target) ? PyRef::Borrow(target) : PyRef::Steal(PyObject_GetAttrString(target, "__name__"));
  const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
  PyErr_Clear();
  return text != nullptr && std::find(kNames.begin(), kNames.end(), text) != kNames.end();
}

SymbolId RecorderState::Impl::SymbolOf(PyObject* object) const {
  if (symbol_of.empty() || object == nullptr) return kNoSymbol;
  auto row = symbol_of.find(object);
  return row == symbol_of.end() ? kNoSymbol : row->second;
}

bool RecorderState::Impl::HoldsSymbol(PyObject* object, int depth) const {
  if (symbol_of.empty() || object == nullptr) return false;
  if (PySlice_Check(object)) {
    auto* slice = reinterpret_cast<PySliceObject*>(object);
    return HoldsSymbol(slice->start) || HoldsSymbol(slice->stop) || HoldsSymbol(slice->step);
  }
  if ((!PyTuple_Check(object) && !PyList_Check(object)) || depth > kMaxDepth) return SymbolOf(object) != kNoSymbol;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    if (HoldsSymbol(PySequence_Fast_GET_ITEM(object, i), depth + 1)) return true;
  }
  return false;
}

void RecorderState::Impl::AddStep(SymbolStep step) {
  if (request.sizes == nullptr) return;
  step.calls = static_cast<int32_t>(recording->torch_graph.calls.size());
  recording->symbolic.steps.push_back(std::move(step));
}

const std::vector<std::string>& RecorderState::Impl::ValueNames() {
  const TorchGraph& graph = recording->torch_graph;
  value_names.resize(graph.values.size());
  if (argument_names.empty()) {
    PyObject* names = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(request.function))->co_localsplusnames;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
      const char* name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));
      argument_names.emplace_back(name == nullptr ? "?" : name);
    }
    PyErr_Clear();
  }
  for (; named_inputs < recording->inputs.size(); ++named_inputs) {
    value_names[static_cast<size_t>(graph.inputs[named_inputs])] =
        recording->sources.ToString(recording->inputs[named_inputs], argument_names);
  }
  NameResults(graph, std::min(named_calls, graph.calls.size()), value_names);
  named_calls = graph.calls.size();
  return value_names;
}

PyObject* RecorderState::Impl::NewSymbol(PyObject* value, std::string text) {
  PyRef hint = PyRef::Steal(PyFloat_CheckExact(value) ? PyFloat_FromDouble(PyFloat_AS_DOUBLE(value)) : nullptr);
  if (PyLong_CheckExact(value)) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    // Larger ones are no sizes; they stay what they are.
    if (overflow != 0) return Py_NewRef(value);
    hint = PyRef::Steal(ShimNewInt(number));
  }
  if (!hint) return nullptr;
  const auto id = static_cast<SymbolId>(recording->symbolic.symbols.size());
  symbol_of.emplace(hint.get(), id);
  recording->symbolic.symbols.push_back({hint, std::move(text)});
  return hint.release();
}

bool RecorderState::Impl::IsSegment() const {
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(request.function));
  return request.resumes != nullptr && request.resumes->Find(code) != nullptr;
}

// Where an iterator stands and what it holds is not read again, nor are defaults and the like.
PyObject* RecorderState::Impl::LiftVaryingNumber(PyObject* value, SourceId source) {
  if (request.sizes == nullptr || !numbers_may_vary || (!PyLong_CheckExact(value) && !PyFloat_CheckExact(value)))
    return nullptr;
  if (auto row = varying_numbers.find(source); row != varying_numbers.end()) return Py_NewRef(row->second.get());
  bool is_item = false;  // of the state of a segment
  for (SourceId at = source; at != kNoSource; at = recording->sources[at].parent) {
    const SourceKind kind = recording->sources[at].kind;
    if (kind == SourceKind::kArgument && IsSegment()) {
      // States count their recordings otherwise (VaryingItems).
      is_item = request.sizes->OpensItem(value);
      if (!is_item) return nullptr;
    }
    if (kind == SourceKind::kIteratorParts || kind == SourceKind::kNativeValue || kind == SourceKind::kDefault ||
        kind == SourceKind::kKwDefault || kind == SourceKind::kPartialField)
      return nullptr;
  }
  if (!is_item && !request.sizes->NumberVaries(recording->sources, source, value)) return nullptr;
  ValueNames();
  std::string name = recording->sources.ToString(source, argument_names);
  PyObject* symbol = NewSymbol(value, std::move(name));
  if (symbol == nullptr) return nullptr;
  if (SymbolOf(symbol) != kNoSymbol)
    TellSymbol(SymbolOf(symbol), PyFloat_CheckExact(value) ? "any float" : "any int", is_item);
  AddGuard(GuardKind::kTypeIs, source, reinterpret_cast<PyObject*>(Py_TYPE(value)));
  SymbolStep step{.kind = SymbolStep::Kind::kNumber, .index = static_cast<int32_t>(recording->symbolic.numbers.size())};
  step.symbol = SymbolOf(symbol);
  recording->symbolic.numbers.push_back({source, step.symbol});
  AddStep(std::move(step));
  varying_numbers.emplace(source, PyRef::Borrow(symbol));
  is_symbolic = true;
  return symbol;
}

SourceId RecorderState::Impl::SourceOfNumber(SymbolId symbol) const {
  const auto& numbers = recording->symbolic.numbers;
  const auto row = std::find_if(numbers.begin(), numbers.end(),
                                [&](const SymbolicNumber& number) { return number.symbol == symbol; });
  return symbol == kNoSymbol || row == numbers.end() ? kNoSource : row->source;
}

PyObject* RecorderState::Impl::AnswerPart(PyObject* result, bool has_symbols, const std::string& text,
                                          TorchArgument* pattern) {
  if (has_symbols && (PyLong_CheckExact(result) || PyFloat_CheckExact(result))) {
    PyObject* symbol = NewSymbol(result, text);
    pattern->symbol = SymbolOf(symbol);
    pattern->constant = PyRef::Borrow(symbol);
    return symbol;
  }
  if (!PyTuple_Check(result) && !PyList_CheckExact(result)) {
    if (!IsConstant(result) && Py_TYPE(result) != Names().device) {
      StayStatic(absl::StrCat(text, " is a ", Py_TYPE(result)->tp_name));
      pattern->constant = PyRef::Borrow(Py_None);
      return Py_NewRef(result);
    }
    pattern->constant = PyRef::Borrow(result);
    return Py_NewRef(result);
  }
  pattern->kind = PyTuple_Check(result) ? Kind::kTuple : Kind::kList;
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(result);
  PyRef items = PyRef::Steal(PyTuple_New(size));
  for (Py_ssize_t i = 0; items && i < size; ++i) {
    PyObject* item = AnswerPart(PySequence_Fast_GET_ITEM(result, i), has_symbols, absl::StrCat(text, "[", i, "]"),
                                &pattern->items.emplace_back());
    if (item == nullptr) return nullptr;
    PyTuple_SET_ITEM(items.get(), i, item);
  }
  if (!items) return nullptr;
  if (pattern->kind == Kind::kList) return PySequence_List(items.get());
  if (PyTuple_CheckExact(result)) return items.release();
  PyRef alone = PyRef::Steal(PyTuple_Pack(1, items.get()));
  return alone ? PyTuple_Type.tp_new(Py_TYPE(result), alone.get(), nullptr) : nullptr;
}

// Arguments are read before the function's first line is.
std::string RecorderState::Impl::ReadPlaceText() {
  if (!frames.empty()) return PlaceText();
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(request.function));
  const char* file = PyUnicode_AsUTF8(code->co_filename);
  PyErr_Clear();
  return absl::StrCat(" (", file == nullptr ? "?" : file, ":", code->co_firstlineno, ")");
}

void RecorderState::Impl::TellSymbol(SymbolId id, std::string_view range, bool is_unbacked) {
  Symbol& symbol = recording->symbolic.symbols[static_cast<size_t>(id)];
  if (!told_symbols.insert(symbol.text).second) return;
  symbol.name = is_unbacked ? absl::StrCat("u", unbacked_symbols++)
                            : absl::StrCat("s", static_cast<int64_t>(told_symbols.size()) - 1 - unbacked_symbols);
  const bool is_traced = IsTracedSymbol(symbol.name);
  if (!is_traced && !LogEnabled(LogArtifact::k_symbols)) return;
  std::string text = absl::StrCat(symbol.name, " = ", symbol.text, ", ", ObjectText(symbol.hint.get()), " here, ",
                                  absl::string_view(range.data(), range.size()), ReadPlaceText());
  if (!is_traced) return Log(LogArtifact::k_symbols, text);
  for (const SourceLocation& frame : Stack())
    absl::StrAppend(&text, "\n  ", frame.file, ":", frame.line, " in ", frame.function);
  absl::StrAppend(&text, "\n", c10::get_backtrace());
  LogTracedSymbol(text);
}

void RecorderState::Impl::TellSizes(const TorchArgument& result) {
  for (const TorchArgument& item : result.items) TellSizes(item);
  if (result.symbol != kNoSymbol)
    TellSymbol(result.symbol, size_range.empty() ? "0 or more" : size_range, IsUnbacked(result.symbol));
}

// A size of a tensor is called by the first tensor that has it for sure.
void RecorderState::Impl::NameSizes(const TorchCall& ask) {
  auto& symbols = recording->symbolic.symbols;
  if (ask.args.empty() || ask.args[0].kind != Kind::kValue || !PyUnicode_Check(ask.target.get())) return;
  size_names.Follow(recording->torch_graph, recording->symbolic, value_names);
  const std::vector<std::string>& names = size_names.Of(ask.args[0].value);
  const auto name = [&](const TorchArgument& size, size_t dimension) {
    if (size.symbol != kNoSymbol && dimension < names.size())
      symbols[static_cast<size_t>(size.symbol)].text = names[dimension];
  };
  if (PyUnicode_CompareWithASCIIString(ask.target.get(), "shape") == 0 ||
      (PyUnicode_CompareWithASCIIString(ask.target.get(), "size") == 0 && ask.args.size() == 1)) {
    for (size_t i = 0; i < ask.result.items.size(); ++i) name(ask.result.items[i], i);
  } else if (PyUnicode_CompareWithASCIIString(ask.target.get(), "size") == 0 && ask.args.size() == 2 &&
             ask.args[1].symbol == kNoSymbol && PyLong_CheckExact(ask.args[1].constant.get())) {
    const long dimension = PyLong_AsLong(ask.args[1].constant.get());
    PyErr_Clear();
    name(ask.result, static_cast<size_t>(dimension < 0 ? dimension + static_cast<long>(names.size()) : dimension));
  }
}

// Torch-level calls have symbols as results where they tell sizes; computations have them always.
PyObject* RecorderState::Impl::Answer(TorchCall ask, PyObject* result, bool has_symbols) {
  PyRef owned = PyRef::Steal(result);
  const auto varies = [&](const TorchArgument& argument) { return Varies(argument, static_inputs); };
  if (std::none_of(ask.args.begin(), ask.args.end(), varies) &&
      std::none_of(ask.kwargs.begin(), ask.kwargs.end(), [&](const auto& row) { return varies(row.second); }))
    return owned.release();
  const std::string text = AskText(ask, recording->symbolic, ValueNames());
  ask.result = {};
  PyObject* answer = AnswerPart(owned.get(), has_symbols, text, &ask.result);
  NameSizes(ask);
  if (answer == nullptr) return nullptr;
  const Judgement judgement = JudgeData(ask);
  switch (judgement) {
    case Judgement::kOpen:
    case Judgement::kChecked:
      break;
    case Judgement::kDecided:
      return answer;
    case Judgement::kBroke:
      return Py_DECREF(answer), nullptr;
  }
  const auto is_tensor = [](const TorchArgument& argument) { return argument.kind == Kind::kValue; };
  if (std::any_of(ask.args.begin(), ask.args.end(), is_tensor)) TellSizes(ask.result);
  SymbolStep step{.kind = SymbolStep::Kind::kAsk};
  step.ask = std::move(ask);
  step.is_check = judgement == Judgement::kChecked;
  NoteMarked(step.ask);
  AddStep(std::move(step));
  const auto& args = recording->symbolic.steps.back().ask.args;
  const bool is_size = std::any_of(args.begin(), args.end(), HasSymbol);
  if (is_size && LogEnabled(LogArtifact::k_symbols)) {
    std::string demand = DemandText(recording->symbolic.steps.back(), recording->symbolic, ValueNames());
    if (!demand.empty()) Log(LogArtifact::k_symbols, absl::StrCat("demands ", demand, PlaceText()));
  }
  return answer;
}

bool RecorderState::Impl::NumberArgument(PyObject* object, TorchArgument* argument, int depth) {
  if (IsPrimitive(object)) {
    argument->constant = PyRef::Borrow(object);
    argument->symbol = SymbolOf(object);
    return true;
  }
  const bool is_size = Py_TYPE(object) == Names().size;
  const bool is_sequence = PyTuple_CheckExact(object) || PyList_CheckExact(object) || is_size;
  if (!is_sequence || depth > kMaxDepth || FindShadow(object) != nullptr) return false;
  if (PyList_CheckExact(object) && IsOutside(object)) return false;
  argument->kind = PyList_CheckExact(object) ? Kind::kList : Kind::kTuple;
  if (is_size) argument->constant = PyRef::Borrow(reinterpret_cast<PyObject*>(Names().size));
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    if (!NumberArgument(PySequence_Fast_GET_ITEM(object, i), &argument->items.emplace_back(), depth + 1)) return false;
  }
  return true;
}

bool RecorderState::Impl::AreNumbers(PyObject* left, PyObject* right) {
  TorchArgument ignored;
  return (HoldsSymbol(left) || HoldsSymbol(right)) && NumberArgument(left, &ignored) && NumberArgument(right, &ignored);
}

PyObject* RecorderState::Impl::Compute(PyObject* function, absl::Span<PyObject* const> args, const Invoke& invoke) {
  TorchCall ask{
      .kind = TorchCall::Kind::kFunction, .target = PyRef::Borrow(function), .args = {}, .kwargs = {}, .result = {}};
  bool numbers = true;
  for (PyObject* object : args) numbers = numbers && NumberArgument(object, &ask.args.emplace_back());
  PyRef result = PyRef::Steal(invoke());
  if (numbers && result) return Answer(std::move(ask), result.release(), true);
  // An exception is one of these numbers, too.
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  for (PyObject* object : args) Specialise(object);
  PyErr_Restore(type, value, traceback);
  return result.release();
}

PyObject* RecorderState::Impl::ComputeOperator(const char* name, std::initializer_list<PyObject*> args,
                                               const Invoke& invoke) {
  PyRef function = PyRef::Steal(PyObject_GetAttrString(Names().operators, name));
  return function ? Compute(function.get(), {args.begin(), args.size()}, invoke) : nullptr;
}

std::string RecorderState::Impl::PlaceText() {
  const int32_t location = frames.empty() ? -1 : CurrentLocation();
  if (location < 0) return "";
  const SourceLocation& place = session.graph().locations[static_cast<size_t>(location)];
  return absl::StrCat(" (", place.file, ":", place.line, ")");
}

void RecorderState::Impl::Fix(SymbolId symbol) {
  if (!fixed.insert(symbol).second) return;
  if (IsUnbacked(symbol)) return BreakAtUnbacked(recording->symbolic.symbols[static_cast<size_t>(symbol)].text);
  SymbolStep step{.kind = SymbolStep::Kind::kEqual};
  step.symbol = symbol;
  AddStep(std::move(step));
  FixMarked(symbol);
  if (LogEnabled(LogArtifact::k_symbols))
    Log(LogArtifact::k_symbols,
        absl::StrCat("specialised", fixing.empty() ? "" : " by ", fixing, ": demands ",
                     DemandText(recording->symbolic.steps.back(), recording->symbolic, {}), PlaceText()));
}

// Everything that C code could reach through the object; what existed before the recording holds no symbols.
void RecorderState::Impl::Specialise(PyObject* object) {
  if (symbol_of.empty() || object == nullptr) return;
  Visit visit;
  VisitReferent(object, &visit);
  while (!visit.pending.empty()) {
    PyObject* next = visit.pending.back();
    visit.pending.pop_back();
    if (const SymbolId symbol = SymbolOf(next); symbol != kNoSymbol) Fix(symbol);
    PyTypeObject* type = Py_TYPE(next);
    if (type->tp_traverse == nullptr || PyType_Check(next) || PyModule_Check(next) || PyFunction_Check(next) ||
        PyCode_Check(next) || IsTensor(next) || PyGen_CheckExact(next) || PyFrame_Check(next) ||
        (known.contains(next) && !PyTuple_Check(next)))
      continue;
    if (visit.seen.size() > kMaxVisited) return StayStatic("objects that hold too many others are used");
    type->tp_traverse(next, VisitReferent, &visit);
  }
}

// Iterators that hand on what they are given need no care; the others compute, with numbers that may have come into
// their containers since they were made.
void RecorderState::Impl::SpecialiseIterator(PyObject* iterator, int depth) {
  PyTypeObject* type = Py_TYPE(iterator);
  if (symbol_of.empty() || type->tp_iternext == nullptr || PyGen_CheckExact(iterator)) return;
  bool moves = type == &PyTupleIter_Type || type == &PyListIter_Type || type == &PyZip_Type || type == &PyMap_Type ||
               type == &PyEnum_Type || type == &PyReversed_Type || type == &PyDictIterKey_Type ||
               type == &PyDictIterValue_Type || type == &PyDictIterItem_Type;
  Visit visit;
  if (moves) type->tp_traverse(iterator, VisitReferent, &visit);
  for (PyObject* referent : visit.pending) {
    if (type == &PyMap_Type && !PyTuple_Check(referent) && !PyFunction_Check(referent)) moves = false;
  }
  if (!moves || depth > kMaxDepth) return Specialise(iterator);
  for (PyObject* referent : visit.pending) {
    SpecialiseIterator(referent, depth + 1);
    if (!PyTuple_Check(referent)) continue;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(referent); ++i)
      SpecialiseIterator(PyTuple_GET_ITEM(referent, i), depth + 1);
  }
}

void RecorderState::Impl::UseAsKey(PyObject* object) {
  if (object == nullptr) return;
  Specialise(object);
  if (IsTensor(object)) return CompareIdentity(object);
  for (Py_ssize_t i = 0; PyTuple_Check(object) && i < PyTuple_GET_SIZE(object); ++i)
    UseAsKey(PyTuple_GET_ITEM(object, i));
}

// Operators return their operand, or another tensor, by its sizes. That lifted inputs differ is guarded.
void RecorderState::Impl::CompareIdentity(PyObject* tensor) {
  if (IsSymbolic() && FindKnown(tensor) == nullptr) StayStatic("tensors are compared by identity");
}

void RecorderState::Impl::SpecialiseOperands(std::initializer_list<PyObject*> objects) {
  if (symbol_of.empty()) return;
  for (PyObject* object : objects) Specialise(object);
}

void RecorderState::Impl::SpecialiseArguments(const NativeCall& call) {
  if (symbol_of.empty()) return;
  if (!marked.empty() || LogEnabled(LogArtifact::k_symbols)) fixing = QualifiedName(call.callable);
  if (!PyType_Check(call.callable)) Specialise(call.callable);
  for (Py_ssize_t i = 0; i < call.total(); ++i) Specialise(call.args[i]);
  fixing.clear();
}

int RecorderState::Impl::ComputeOrFix(const NativeCall& call, PyRef* result) {
  bool holds = false;
  for (Py_ssize_t i = 0; i < call.total(); ++i) holds |= HoldsSymbol(call.args[i]);
  TorchArgument ignored;
  const bool numbers = call.kwnames == nullptr && std::all_of(call.args, call.args + call.nargs, [&](PyObject* object) {
                         return NumberArgument(object, &(ignored = {}));
                       });
  if (!holds || !numbers) return SpecialiseArguments(call), 0;
  *result = PyRef::Steal(Compute(call.callable, {call.args, static_cast<size_t>(call.nargs)}, [&] {
    if (PyFunction_Check(call.callable)) return CallUnrecorded(call);
    return PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), nullptr);
  }));
  return *result ? 1 : -1;
}

int RecorderState::Impl::CallModelOnSymbols(Treatment treatment, const NativeCall& call, PyRef* result) {
  switch (treatment) {
    // By protocol functions, or calls of the recording; or nothing but identity and type is looked at.
    case Treatment::kGetAttr:
    case Treatment::kHasAttr:
    case Treatment::kSetAttr:
    case Treatment::kDelAttr:
    case Treatment::kObjectGetAttribute:
    case Treatment::kObjectSetAttr:
    case Treatment::kObjectDelAttr:
    case Treatment::kTypeCall:
    case Treatment::kLen:
    case Treatment::kIsInstance:
    case Treatment::kIdentity:
    case Treatment::kIter:
    case Treatment::kNext:
    case Treatment::kOperator:
    case Treatment::kReduce:
    case Treatment::kSum:
    case Treatment::kTorch:
    case Treatment::kTorchLeaf:
    case Treatment::kCheck:
    case Treatment::kVars:
    case Treatment::kIsCompiling:
      return 0;
    case Treatment::kNumber:
      if (std::any_of(call.args, call.args + call.total(), IsTensor)) return 0;
      return ComputeOrFix(call, result);
    case Treatment::kPure:
    case Treatment::kHigherOrder:
    case Treatment::kCached: {
      const bool is_numel = Py_TYPE(call.callable) == &PyMethodDescr_Type;
      if (treatment == Treatment::kCached || is_numel || ComputesNumbers(call.callable))
        return ComputeOrFix(call, result);
      return SpecialiseArguments(call), 0;
    }
    case Treatment::kMap:
      if (call.nargs > 0 && PyFunction_Check(call.args[0])) return 0;
      return SpecialiseArguments(call), 0;
    default:
      return SpecialiseArguments(call), 0;
  }
}

int RecorderState::Impl::CallOnSymbols(const NativeCall& call, PyRef* result) {
  if (std::optional<Treatment> treatment = FindCallable(call.callable))
    return CallModelOnSymbols(*treatment, call, result);
  PyTypeObject* kind = Py_TYPE(call.callable);
  if (kind == &PyMethodDescr_Type || kind == &PyWrapperDescr_Type) return CallMethodOnSymbols(call);
  if (kind == Names().method_wrapper) return 0;  // comes back with its receiver
  if (PyCFunction_Check(call.callable)) {
    PyObject* self = reinterpret_cast<PyCFunctionObject*>(call.callable)->m_self;
    if (IsTorchFunction(self)) return 0;
    const std::string_view name = reinterpret_cast<PyCFunctionObject*>(call.callable)->m_ml->ml_name;
    // These come back, as a construction or with their receiver.
    if (self != nullptr && PyType_Check(self) && (name == "__new__" || name == "__instancecheck__")) return 0;
    if (self != nullptr && !PyModule_Check(self) && !PyType_Check(self)) return 0;  // as a method wrapper
  }
  return SpecialiseArguments(call), 0;
}

// Methods of C types. Those of containers that move items fix what they hash or count by.
int RecorderState::Impl::CallMethodOnSymbols(const NativeCall& call) {
  static constexpr std::array<std::string_view, 13> kMoves = {"append",  "appendleft", "extend", "clear",   "copy",
                                                              "keys",    "values",     "items",  "reverse", "__len__",
                                                              "popitem", "__iter__",   "__get__"};
  static constexpr std::array<std::string_view, 7> kKeyed = {"insert",      "setdefault",  "get",        "pop",
                                                             "__setitem__", "__getitem__", "__delitem__"};
  auto* descriptor = reinterpret_cast<PyDescrObject*>(call.callable);
  const char* text = PyUnicode_AsUTF8(descriptor->d_name);
  if (text == nullptr) return PyErr_Clear(), SpecialiseArguments(call), 0;
  PyTypeObject* type = descriptor->d_type;
  if (type == Names().tensor_base && call.nargs > 0 && IsTensor(call.args[0])) return 0;
  const bool is_container = type == &PyList_Type || type == &PyDict_Type || type == &PyTuple_Type ||
                            type == Names().deque || type == Names().ordered_dict || type == Names().default_dict ||
                            type == Names().size;
  if (is_container && call.kwnames == nullptr) {
    if (std::find(kMoves.begin(), kMoves.end(), text) != kMoves.end()) {
      for (Py_ssize_t i = 1; i < call.nargs; ++i) SpecialiseIterator(call.args[i]);
      return 0;
    }
    if (std::find(kKeyed.begin(), kKeyed.end(), text) != kKeyed.end())
      return UseAsKey(call.nargs > 1 ? call.args[1] : nullptr), 0;
  }
  return SpecialiseArguments(call), 0;
}

int RecorderState::Impl::ConstructOnSymbols(const NativeCall& call, PyRef* result) {
  auto* type = reinterpret_cast<PyTypeObject*>(call.callable);
  if (type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type) return ComputeOrFix(call, result);
  PyTypeObject* base = NativeBase(type);
  if (FindCallable(reinterpret_cast<PyObject*>(base)) == Treatment::kMap)
    return CallModelOnSymbols(Treatment::kMap, call, result);
  const bool moves = base == &PyBaseObject_Type || base == &PyTuple_Type || base == &PyList_Type ||
                     base == Names().size || base == &PySlice_Type || base == &PyZip_Type || base == &PyReversed_Type ||
                     base == &PySuper_Type || base == Names().partial || PyType_IsSubtype(type, Names().tensor_base) ||
                     (base == &PyEnum_Type && call.total() == 1) ||
                     ((base == &PyDict_Type || base == Names().ordered_dict) && call.nargs == 0);
  if (!moves) return SpecialiseArguments(call), 0;
  for (Py_ssize_t i = 0; i < call.total(); ++i) SpecialiseIterator(call.args[i]);
  return 0;
}

void RecorderState::Impl::StayStatic(std::string why) {
  if (!recording->why_static.empty()) return;
  recording->why_static = std::move(why);
  if (!marked_input.empty() && recording->fixed_mark.empty())
    recording->fixed_mark = absl::StrCat(
        marked_input, ", but the recording holds for no other sizes: ", recording->why_static, PlaceText());
}

// What a replay would not do again.
void RecorderState::Impl::FinishSymbols() {
  // What is made for real in each call is not made again on fakes.
  const bool replays = !recording->symbolic.of_data;
  if (recording->own_generators || !used_generators.empty() || changes_random_state)
    StayStatic("generators of random numbers");
  if (changes_inference || changes_dtype) StayStatic("inference mode or the default dtype is set inside");
  if (replays && !recording->torch_level.empty()) StayStatic(recording->torch_level);
  if (replays && recording->inputs_overlap) StayStatic("inputs that share memory are written");
  if (replays && recording->needs_autograd && !recording->no_joint.empty()) StayStatic(recording->no_joint);
  if (program_gradients != nullptr && (program_gradients->any() || program_gradients->runs_backward))
    StayStatic("gradients are computed inside");
  if (!Gradients().checkpoints.empty()) StayStatic("a checkpoint");
  const absl::flat_hash_set<int32_t> written = WrittenStorages(session.graph());
  for (const LiftedInput& input : LiftedInputs()) {
    if (replays && input.fake.requires_grad() && written.contains(FakeSession::MetaOf(input.fake).storage))
      StayStatic("a tensor that requires grad is written");
  }
  for (const TorchCall& call : recording->torch_graph.calls) {
    if (IsOfAutograd(call)) StayStatic("gradients are computed inside");
  }
  for (const PyRef& output : graph_outputs)
    recording->symbolic.output_forms.push_back(ViewForm(TensorOf(output.get())));
}

PyObject* RecorderState::Impl::MarksOf(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_framejit_marks");
  PyObject* attributes = ShimInstanceDict(tensor);
  PyObject* marks = ShimInlineValue(tensor, name);
  if (marks == nullptr && attributes != nullptr) marks = PyDict_GetItemWithError(attributes, name);
  PyErr_Clear();
  return marks != nullptr && PyDict_CheckExact(marks) ? marks : nullptr;
}

bool RecorderState::Impl::IsMarkedDynamic(PyObject* tensor) const {
  PyObject* marks = MarksOf(tensor);
  PyObject *dimension = nullptr, *limits = nullptr;
  for (Py_ssize_t cursor = 0; marks != nullptr && PyDict_Next(marks, &cursor, &dimension, &limits);) {
    if (PyTuple_Check(limits)) return true;
  }
  return false;
}

// (least, greatest), either of which may be None; a third item: nothing may depend on the size (mark_unbacked).
static std::string RangeText(PyObject* limits) {
  const auto limit = [&](Py_ssize_t i, const char* none) {
    PyObject* object = PyTuple_GET_ITEM(limits, i);
    return object == Py_None ? std::string(none) : ObjectText(object);
  };
  return absl::StrCat(limit(0, "0"), " to ", limit(1, "any size"));
}

int RecorderState::Impl::DemandMarks(PyObject* lifted, SourceId source, PyObject* marks) {
  PyRef size = PyRef::Steal(PyUnicode_InternFromString("size"));
  ValueNames();
  const std::string name = recording->sources.ToString(source, argument_names);
  PyObject *dimension = nullptr, *limits = nullptr;
  for (Py_ssize_t cursor = 0; PyDict_Next(marks, &cursor, &dimension, &limits);) {
    TorchCall ask{.kind = TorchCall::Kind::kMethod, .target = size, .args = {}, .kwargs = {}, .result = {}};
    ask.args.push_back(
        {.kind = Kind::kValue, .constant = {}, .value = recording->torch_graph.inputs.back(), .items = {}, .keys = {}});
    if (!NumberArgument(dimension, &ask.args.emplace_back())) return PyErr_BadInternalCall(), -1;
    PyObject* operands[] = {lifted, dimension};
    if (PyTuple_Check(limits)) size_range = RangeText(limits);
    const bool unbacked_size = PyTuple_Check(limits) && PyTuple_GET_SIZE(limits) == 3;
    if (unbacked_size) {
      data_values.insert(recording->torch_graph.inputs.back());
      unbacked_texts.insert(absl::StrCat(name, ".shape[", ObjectText(dimension), "]"));
    }
    FakeSession::Pause pause;
    PyRef symbol = PyRef::Steal(PyObject_VectorcallMethod(size.get(), operands, 2, nullptr));
    if (symbol) symbol = PyRef::Steal(Answer(std::move(ask), symbol.release(), true));
    size_range.clear();
    if (!symbol) return -1;
    if (!PyTuple_Check(limits)) {
      Specialise(symbol.get());
      continue;
    }
    const std::string text = absl::StrCat("dimension ", ObjectText(dimension), " of ", name);
    marked_input = absl::StrCat(text, unbacked_size ? " is marked unbacked" : " is marked dynamic");
    if (!unbacked_size) marked.emplace(SymbolOf(symbol.get()), text);
    for (int i = 0; i < 2; ++i) {
      PyObject* limit = PyTuple_GET_ITEM(limits, i);
      const int op = i == 0 ? Py_GE : Py_LE;
      if (limit == Py_None) continue;
      PyRef holds = PyRef::Steal(ComputeOperator(i == 0 ? "ge" : "le", {symbol.get(), limit},
                                                 [&] { return PyObject_RichCompare(symbol.get(), limit, op); }));
      if (!holds) return -1;
    }
  }
  return 0;
}

// What is computed of one marked size and constants, and which sizes of inputs are marked.
void RecorderState::Impl::NoteMarked(const TorchCall& ask) {
  if (marked.empty()) return;
  const auto& symbols = recording->symbolic.symbols;
  std::string name;
  for (const TorchArgument& argument : ask.args) {
    auto row = marked.find(argument.symbol);
    if (row != marked.end()) name = row->second;
    if (row == marked.end() && argument.symbol != kNoSymbol) return;
  }
  const auto mark = [&](const TorchArgument& result) {
    if (result.symbol == kNoSymbol) return;
    // The same question again, of the same input.
    for (const auto& [symbol, text] : marked) {
      const std::string& asked = symbols[static_cast<size_t>(result.symbol)].text;
      if (name.empty() && symbols[static_cast<size_t>(symbol)].text == asked) name = text;
    }
    if (!name.empty()) marked.emplace(result.symbol, name);
  };
  const bool is_computed = !name.empty();
  mark(ask.result);
  for (const TorchArgument& item : ask.result.items) {
    if (!is_computed) name.clear();
    mark(item);
  }
  if (!is_computed || ask.kind != TorchCall::Kind::kFunction || ask.result.symbol != kNoSymbol) return;
  PyRef function = PyRef::Steal(PyObject_GetAttrString(ask.target.get(), "__name__"));
  PyErr_Clear();
  const bool equals =
      function && PyUnicode_Check(function.get()) &&
      PyUnicode_CompareWithASCIIString(function.get(), ask.result.constant.get() == Py_True ? "eq" : "ne") == 0;
  if (!equals) return;
  for (const TorchArgument& argument : ask.args) {
    if (argument.symbol != kNoSymbol) FixMarked(argument.symbol);
  }
}

void RecorderState::Impl::FixMarked(SymbolId symbol) {
  auto row = marked.find(symbol);
  if (row == marked.end() || !recording->fixed_mark.empty()) return;
  const Symbol& size = recording->symbolic.symbols[static_cast<size_t>(symbol)];
  const std::string by = fixing.empty() ? "" : absl::StrCat(" by ", fixing);
  recording->fixed_mark = absl::StrCat(row->second, " is marked dynamic, but ", size.text, " is fixed to ",
                                       ObjectText(size.hint.get()), by, PlaceText());
}

}  // namespace framejit
