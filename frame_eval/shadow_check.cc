#include "frame_eval/shadow_check.h"

#include <ATen/SavedTensorHooks.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <atomic>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "frame_eval/cpython/exception_text.h"
#include "frame_eval/cpython/recursion.h"
#include "frame_eval/entry.h"
#include "frame_eval/written_inputs.h"

namespace framejit {
namespace {

std::atomic<int64_t> check_every{0};
PyObject* keep_function = nullptr;
PyObject* difference_function = nullptr;

const at::Tensor& TensorAt(const std::vector<PyRef>& objects, size_t i) { return THPVariable_Unpack(objects[i].get()); }

int64_t VersionOf(const at::Tensor& tensor) {
  return tensor.is_inference()
             ? -1
             : static_cast<int64_t>(tensor.unsafeGetTensorImpl()->version_counter().current_version());
}

// Why the eager call could not be taken back; empty where it can.
std::string LeftOut(const Recording& recording, bool is_segment, const std::vector<size_t>& written) {
  if (is_segment || recording.resume) return "it is part of a call with breaks";
  if (!recording.exit_plan.effects.empty()) return "it changes objects or torch's state";
  for (const Node& node : recording.graph.nodes) {
    for (const Operand& operand : node.operands) {
      if (operand.kind == Operand::Kind::kConstant && operand.constant.isGenerator())
        return "it draws from a generator of its own";
    }
  }
  // Such a write gives the input a history, and is never differentiated by a recorded backward.
  if (recording.needs_autograd && recording.joint == nullptr && !written.empty())
    return "it may write inputs under autograd";
  return "";
}

// The call that binds to these parameter slots.
PyRef CallWithSlots(PyObject* function, absl::Span<PyObject* const> slots) {
  auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  const int named = code->co_argcount + code->co_kwonlyargcount;
  PyRef arguments = PyRef::Steal(PyList_New(0)), keywords = PyRef::Steal(PyDict_New());
  if (!arguments || !keywords) return PyRef();
  bool by_position = true;
  for (int i = 0; i < named; ++i) {
    PyObject* value = slots[static_cast<size_t>(i)];
    by_position = by_position && i < code->co_argcount && value != nullptr;
    if (value == nullptr) continue;
    const int status = by_position
                           ? PyList_Append(arguments.get(), value)
                           : PyDict_SetItem(keywords.get(), PyTuple_GET_ITEM(code->co_localsplusnames, i), value);
    if (status != 0) return PyRef();
  }
  size_t next = static_cast<size_t>(named);
  if ((code->co_flags & CO_VARARGS) != 0) {
    const Py_ssize_t end = PyList_GET_SIZE(arguments.get());
    if (PyList_SetSlice(arguments.get(), end, end, slots[next++]) != 0) return PyRef();
  }
  if ((code->co_flags & CO_VARKEYWORDS) != 0 && PyDict_Update(keywords.get(), slots[next]) != 0) return PyRef();
  PyRef tuple = PyRef::Steal(PyList_AsTuple(arguments.get()));
  PythonCallFromC scope;
  return tuple && scope.allowed() ? PyRef::Steal(PyObject_Call(function, tuple.get(), keywords.get())) : PyRef();
}

// Nothing is compiled inside, and the program's hooks on saved tensors do not see those of a call that it never made.
class EagerScope {
 public:
  EagerScope() : hooks_(at::SavedTensorDefaultHooks::get_tls_state()) {
    at::SavedTensorDefaultHooks::set_tls_state({});
    AddDisableDepth(1);
  }
  ~EagerScope() {
    AddDisableDepth(-1);
    at::SavedTensorDefaultHooks::set_tls_state(hooks_);
  }
  EagerScope(const EagerScope&) = delete;
  EagerScope& operator=(const EagerScope&) = delete;

 private:
  at::impl::SavedTensorDefaultHooksTLS hooks_;
};

PyRef TupleOf(const std::vector<PyRef>& objects) {
  PyRef tuple = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(objects.size())));
  for (size_t i = 0; tuple && i < objects.size(); ++i)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), Py_NewRef(objects[i].get()));
  return tuple;
}

// The elements of `tensor` that lie in memory of their own, of those that `like` says share theirs.
at::Tensor Disjoint(at::Tensor tensor, const at::Tensor& like) {
  for (int64_t i = 0; i < like.dim(); ++i) {
    if (like.stride(i) == 0 && like.size(i) > 1) tensor = tensor.narrow(i, 0, 1);
  }
  return tensor;
}

// How much of a number a floating-point type keeps; 0: all that is kept at all.
int Coarseness(c10::ScalarType type) {
  if (!c10::isFloatingType(type) && !c10::isComplexType(type)) return 0;
  if (type == c10::kDouble || type == c10::kComplexDouble) return 0;
  return type == c10::kFloat || type == c10::kComplexFloat ? 1 : 2;
}

// Inputs are what they are; each node rounds to the dtypes of its results. By memory, so that writes count.
std::vector<std::pair<c10::ScalarType, c10::ScalarType>> Roundings(const Graph& graph) {
  absl::flat_hash_map<int32_t, c10::ScalarType> coarsest;
  const auto note = [&](ValueId id, c10::ScalarType type) {
    auto [row, is_new] = coarsest.try_emplace(graph.meta(id).storage, type);
    if (!is_new && Coarseness(row->second) < Coarseness(type)) row->second = type;
  };
  for (const Node& node : graph.nodes) {
    c10::ScalarType read = c10::kDouble;
    const auto look = [&](ValueId id) {
      const auto row = id == kNoValue ? coarsest.end() : coarsest.find(graph.meta(id).storage);
      if (row != coarsest.end() && Coarseness(row->second) > Coarseness(read)) read = row->second;
    };
    for (const Operand& operand : node.operands) {
      if (operand.kind == Operand::Kind::kValue) look(operand.value);
      if (operand.kind == Operand::Kind::kValueList) std::for_each(operand.values.begin(), operand.values.end(), look);
    }
    for (ValueId output : node.outputs) {
      if (output == kNoValue) continue;
      note(output, read);
      note(output, graph.meta(output).dtype);
    }
  }
  std::vector<std::pair<c10::ScalarType, c10::ScalarType>> rounded;
  for (const auto& values : {graph.inputs, graph.outputs}) {
    for (ValueId id : values) {
      const auto row = coarsest.find(graph.meta(id).storage);
      const c10::ScalarType type = graph.meta(id).dtype;
      if (row != coarsest.end() && Coarseness(row->second) > Coarseness(type)) rounded.emplace_back(type, row->second);
    }
  }
  std::sort(rounded.begin(), rounded.end(),
            [](const auto& a, const auto& b) { return Coarseness(a.second) < Coarseness(b.second); });
  return rounded;
}

PyRef DtypePairs(const std::vector<std::pair<c10::ScalarType, c10::ScalarType>>& pairs) {
  PyRef dict = PyRef::Steal(PyDict_New());
  for (const auto& [key, value] : pairs) {
    auto* to = reinterpret_cast<PyObject*>(torch::getTHPDtype(value));
    if (!dict || PyDict_SetItem(dict.get(), reinterpret_cast<PyObject*>(torch::getTHPDtype(key)), to) != 0) return {};
  }
  return dict;
}

}  // namespace

void SetShadowCheck(int64_t every) { check_every.store(every, std::memory_order_relaxed); }
int64_t ShadowCheckEvery() { return check_every.load(std::memory_order_relaxed); }

void SetShadowFunctions(PyObject* keep, PyObject* difference) {
  Py_XSETREF(keep_function, Py_NewRef(keep));
  Py_XSETREF(difference_function, Py_NewRef(difference));
}

ShadowCounts& CountsOfShadows() {
  static ShadowCounts counts;
  return counts;
}

ShadowPlan MakeShadowPlan(const Recording& recording, bool is_segment, const std::vector<std::string>& argument_names) {
  ShadowPlan plan;
  for (SourceId source : recording.inputs)
    plan.input_names.push_back(recording.sources.ToString(source, argument_names));
  plan.written = WrittenInputs(recording.graph);
  plan.left_out = LeftOut(recording, is_segment, plan.written);
  plan.rounded = Roundings(recording.graph);
  plan.random = RandomDevices(recording.graph);
  const c10::Device cpu(c10::kCPU);
  if (std::find(plan.random.begin(), plan.random.end(), cpu) == plan.random.end()) plan.random.push_back(cpu);
  return plan;
}

ShadowCall::ShadowCall(const ShadowPlan& plan, std::vector<PyRef> inputs)
    : plan_(plan), inputs_(std::move(inputs)), generators_before_(DefaultGeneratorStates::Take(plan.random)) {
  for (size_t i = 0; i < inputs_.size(); ++i) versions_.push_back(VersionOf(TensorAt(inputs_, i)));
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  for (size_t position : plan_.written) {
    const at::Tensor& input = TensorAt(inputs_, position);
    before_.emplace_back(input, input.clone());
  }
}

absl::Status ShadowCall::RunEager(const CallState& state) {
  {
    EagerScope scope;
    expected_ = CallWithSlots(state.function, state.slots);
  }
  if (!expected_) raised_ = TakeExceptionText();
  std::vector<PyRef> written;
  for (size_t position : plan_.written) written.push_back(inputs_[position]);
  PyRef tuple = TupleOf(written);
  if (expected_ && tuple)
    kept_ = PyRef::Steal(PyObject_CallFunctionObjArgs(keep_function, expected_.get(), tuple.get(), nullptr));
  generators_after_ = DefaultGeneratorStates::Take(plan_.random);
  eager_written_ = Written();
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (const auto& row : before_) after_.push_back(row.first.clone());
  }
  TakeBack();
  return !expected_ || kept_ ? absl::OkStatus() : absl::InternalError(TakeExceptionText());
}

std::vector<bool> ShadowCall::Written() const {
  std::vector<bool> written;
  for (size_t i = 0; i < inputs_.size(); ++i)
    written.push_back(versions_[i] >= 0 && VersionOf(TensorAt(inputs_, i)) != versions_[i]);
  return written;
}

void ShadowCall::TakeBack() {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  for (const auto& [input, copy] : before_) Disjoint(input, input).copy_(Disjoint(copy, input));
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (versions_[i] < 0) continue;
    c10::VariableVersion counter = TensorAt(inputs_, i).unsafeGetTensorImpl()->version_counter();
    counter.set_version(versions_[i]);
  }
  if (generators_before_.has_value()) generators_before_->Restore();
}

absl::Status ShadowCall::CompareInputs() {
  const std::vector<bool> written = Written();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    // What the recording says it writes is compared by its values: not all of torch's kernels count a version.
    const bool said = std::find(plan_.written.begin(), plan_.written.end(), i) != plan_.written.end();
    if (said || written[i] == eager_written_[i]) continue;
    return absl::InternalError(absl::StrCat(
        plan_.input_names[i], written[i] ? " is written, and not in eager mode" : " is written in eager mode alone"));
  }
  return absl::OkStatus();
}

absl::Status ShadowCall::Compare(PyObject* result) {
  if (!expected_) return absl::InternalError(absl::StrCat("eager mode raises ", raised_));
  if (absl::Status status = CompareInputs(); !status.ok()) return status;
  // What was written is compared as what is returned is, by the names of the inputs.
  PyRef expected = PyRef::Steal(PyDict_New()), actual = PyRef::Steal(PyDict_New());
  for (size_t i = 0; expected && actual && i < plan_.written.size(); ++i) {
    const size_t position = plan_.written[i];
    PyRef value = PyRef::Steal(THPVariable_Wrap(after_[i]));
    const char* name = plan_.input_names[position].c_str();
    if (!value || PyDict_SetItemString(expected.get(), name, value.get()) != 0 ||
        PyDict_SetItemString(actual.get(), name, inputs_[position].get()) != 0)
      return absl::InternalError(TakeExceptionText());
  }
  PyRef inputs = TupleOf(inputs_), names = PyRef::Steal(PyList_New(0));
  for (const std::string& name : plan_.input_names) {
    PyRef text = PyRef::Steal(PyUnicode_FromString(name.c_str()));
    if (!names || !text || PyList_Append(names.get(), text.get()) != 0) return absl::InternalError(TakeExceptionText());
  }
  PyRef rounded = DtypePairs(plan_.rounded);
  if (!rounded) return absl::InternalError(TakeExceptionText());
  PyRef text = PyRef::Steal(PyObject_CallFunctionObjArgs(difference_function, expected_.get(), result, kept_.get(),
                                                         expected.get(), actual.get(), inputs.get(), names.get(),
                                                         rounded.get(), nullptr));
  if (!text) return absl::InternalError(TakeExceptionText());
  if (text.get() != Py_None) return absl::InternalError(PyUnicode_AsUTF8(text.get()));
  if (DefaultGeneratorStates::Take(plan_.random) == generators_after_) return absl::OkStatus();
  return absl::InternalError("another number of random numbers is drawn");
}

}  // namespace framejit
