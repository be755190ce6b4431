// Torch-level calls: each call of torch on fakes is made natively, which records its ATen operators, and is noted as
// the program made it.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "bytecode/exception_table.h"
#include "graph/autograd/make_node.h"
#include "graph/capture/evaluator.h"
#include "graph/capture/program_gradients.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"

namespace framejit {
namespace {

constexpr int kMaxDepth = 16;

bool IsTorchConstant(PyObject* object) {
  const WellKnown& n = Names();
  PyTypeObject* type = Py_TYPE(object);
  return IsPrimitive(object) || PyType_Check(object) || type == n.dtype || type == n.device || type == n.layout ||
         type == n.memory_format || IsNumPyScalar(object);
}

// Null, or the class to build the tuple with: torch.Size, a namedtuple, torch.return_types.
PyRef TupleClass(PyObject* tuple) {
  return PyTuple_CheckExact(tuple) ? PyRef() : PyRef::Borrow(reinterpret_cast<PyObject*>(Py_TYPE(tuple)));
}

// Of module `operator`, by the address of a name of our own tables. Null with an exception set where there is none.
PyRef OperatorFunction(const char* name) {
  static auto* functions = new absl::flat_hash_map<const char*, PyRef>;  // the GIL guards it
  PyRef& function = (*functions)[name];
  if (!function) function = PyRef::Steal(PyObject_GetAttrString(Names().operators, name));
  return function;
}

// torch.Tensor.storage_offset, bound or not.
bool IsStorageOffset(PyObject* callable) {
  const PyMethodDef* method = PyCFunction_Check(callable) ? reinterpret_cast<PyCFunctionObject*>(callable)->m_ml
                              : Py_TYPE(callable) == &PyMethodDescr_Type
                                  ? reinterpret_cast<PyMethodDescrObject*>(callable)->d_method
                                  : nullptr;
  return method != nullptr && std::string_view(method->ml_name) == "storage_offset";
}

}  // namespace

void RecorderState::Impl::SetTorchValue(const at::Tensor& tensor, TorchValueId id) {
  torch_values.emplace(tensor.unsafeGetTensorImpl(), id);
  const bool holds = tensor.requires_grad() || !IsFake(tensor);
  kept_tensors.push_back({c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(tensor.getIntrusivePtr()),
                          holds ? tensor : at::Tensor()});
}

TorchValueId RecorderState::Impl::TorchValue(const at::Tensor& tensor, bool make) {
  if (auto row = torch_values.find(tensor.unsafeGetTensorImpl()); row != torch_values.end()) return row->second;
  if (!operator_values.empty()) {
    if (auto made = operator_values.find(session.ValueOf(tensor)); made != operator_values.end()) {
      SetTorchValue(tensor, made->second);
      return made->second;
    }
  }
  if (!make) return -1;
  auto& values = recording->torch_graph.values;
  const auto id = static_cast<TorchValueId>(values.size());
  values.push_back(FakeSession::MetaOf(tensor));
  SetTorchValue(tensor, id);
  return id;
}

bool RecorderState::Impl::HasFake(PyObject* object, int depth) const {
  if (IsPrimitive(object)) return false;
  if (IsTensor(object)) return true;
  if (depth > kMaxDepth) return false;
  if (PyTuple_Check(object) || PyList_Check(object)) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (HasFake(PySequence_Fast_GET_ITEM(object, i), depth + 1)) return true;
    }
  } else if (PyDict_Check(object)) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(object, &cursor, &key, &value);) {
      if (HasFake(value, depth + 1)) return true;
    }
  }
  return false;
}

// False where the value has no torch-level form (an exception may be set).
bool RecorderState::Impl::Snapshot(PyObject* object, bool is_result, TorchArgument* argument, int depth) {
  using Kind = TorchArgument::Kind;
  if (depth > kMaxDepth || IsUnlifted(object)) return false;
  if (IsTensor(object)) {
    if (!IsFakeTensor(object)) return false;
    argument->kind = Kind::kValue;
    argument->value = TorchValue(TensorOf(object), is_result);
    return argument->value >= 0;
  }
  if (IsTorchConstant(object)) {
    argument->constant = PyRef::Borrow(object);
    argument->symbol = SymbolOf(object);
    return true;
  }
  if (Py_TYPE(object) == Names().generator && !is_result) {
    argument->constant = PyRef::Borrow(object);
    return UseGenerator(object) == 0;
  }
  if (IsNativeValue(object)) {  // torch takes it for the number or text that it is worth
    argument->constant = NativeValue(object);
    return static_cast<bool>(argument->constant);
  }
  if (PyTuple_Check(object) || PyList_Check(object)) {
    argument->kind = PyTuple_Check(object) ? Kind::kTuple : Kind::kList;
    if (PyTuple_Check(object)) argument->constant = TupleClass(object);
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    argument->items.resize(static_cast<size_t>(size));
    for (Py_ssize_t i = 0; i < size; ++i) {
      if (!Snapshot(PySequence_Fast_GET_ITEM(object, i), is_result, &argument->items[static_cast<size_t>(i)],
                    depth + 1))
        return false;
    }
    return true;
  }
  if (PyDict_CheckExact(object)) {
    argument->kind = Kind::kDict;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(object, &cursor, &key, &value);) {
      argument->keys.push_back(PyRef::Borrow(key));
      if (!Snapshot(value, is_result, &argument->items.emplace_back(), depth + 1)) return false;
    }
    return true;
  }
  if (PySlice_Check(object)) {
    argument->kind = Kind::kSlice;
    auto* slice = reinterpret_cast<PySliceObject*>(object);
    for (PyObject* part : {slice->start, slice->stop, slice->step}) {
      if (!Snapshot(part, is_result, &argument->items.emplace_back(), depth + 1)) return false;
    }
    return true;
  }
  return false;
}

// Whether the exception that is set came of the operands being fakes: eager would not raise it, so no handler of the
// program may see it. What else torch raises, it raises in eager too, but in other words where metadata is computed by
// other code than results: a handler is given what eager raises.
bool RecorderState::Impl::BreakWhereFakesFailed(PyObject* callable) {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyRef text = PyRef::Steal(value == nullptr ? nullptr : PyObject_Str(value));
  const char* message = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
  PyErr_Clear();
  const std::string_view view = message == nullptr ? "" : message;
  const std::string name = QualifiedName(callable);
  const bool data = view.find("framejit: the data of a tensor") != std::string_view::npos;
  // Metadata is computed on meta tensors, whose kernels may say so.
  bool fake = false;
  for (std::string_view sign : {"framejit: ", " Fake ", " meta ", "'meta'", "Meta ", "fake impl"})
    fake |= view.find(sign) != std::string_view::npos;
  PyErr_Restore(type, value, traceback);
  if (data) return Break(BreakCode::kTensorData, name), true;
  if (fake) return Break(BreakCode::kUnsupportedCallable, name), true;
  // What torch's parser of arguments and its indexing say, they say of fakes as well.
  const bool same = PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_IndexError);
  const bool handled = std::any_of(frames.begin(), frames.end(), [](const LiveFrame* frame) {
    return FindExceptionHandler(frame->code, frame->offset).has_value();
  });
  if (same || !handled) return false;
  return Break(BreakCode::kUnsupportedCallable, name + " raises an exception"), true;
}

PyObject* RecorderState::Impl::CallTorch(TorchCall::Kind kind, PyObject* target, const NativeCall& call) {
  return CallTorch(kind, target, call, [&] {
    return PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames);
  });
}

PyObject* RecorderState::Impl::CallTorch(TorchCall::Kind kind, PyObject* target, const NativeCall& call,
                                         const Invoke& invoke) {
  return HasTorchFunction(call) ? CallTorchFunction(call, invoke) : RecordTorch(kind, target, call, invoke);
}

PyObject* RecorderState::Impl::RecordTorch(TorchCall::Kind kind, PyObject* target, const NativeCall& call,
                                           const Invoke& invoke) {
  if (EngineRuns() || InsideTransform()) return CallInTransform(call, invoke);
  TorchCall record{.kind = kind, .target = PyRef::Borrow(target), .args = {}, .kwargs = {}, .result = {}};
  record.args.reserve(static_cast<size_t>(call.nargs));
  bool has_tensor = false;
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    TorchArgument argument;
    if (Prepare(call.args[i]) != 0) return nullptr;
    if (!Snapshot(call.args[i], false, &argument)) {
      if (PyErr_Occurred()) return nullptr;
      return BreakNull(BreakCode::kUnsupportedCallable,
                       QualifiedName(call.callable) + " with a " + Py_TYPE(call.args[i])->tp_name);
    }
    has_tensor |= HasValue(argument);
    if (i < call.nargs) {
      record.args.push_back(std::move(argument));
    } else {
      record.kwargs.emplace_back(PyRef::Borrow(PyTuple_GET_ITEM(call.kwnames, i - call.nargs)), std::move(argument));
    }
  }
  record.location = CurrentLocation();
  session.SetPosition(record.location, static_cast<int32_t>(recording->torch_graph.calls.size()));
  PyRef result;
  {
    // Operands are tensors and constants: no user code can be called back.
    Disarmed disarmed;
    session.ReadData(MayReadData());
    result = PyRef::Steal(invoke());
  }
  const bool read_data = session.ReadData(false);
  if (CheckFailure() != 0) return nullptr;
  const bool breaks = !result && BreakWhereFakesFailed(call.callable);
  // It may be for the sizes.
  if (!result && IsSymbolic() && !(breaks && recording->graph_break->code == BreakCode::kTensorData)) {
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    StayStatic(QualifiedName(call.callable) + " raises an exception");
    PyErr_Restore(type, value, traceback);
  }
  if (breaks) return nullptr;
  if (!result) return nullptr;
  if (!has_tensor && IsTensor(result.get()) && !IsFakeTensor(result.get()) && TensorOf(result.get()).dim() == 0) {
    SpecialiseArguments(call);
    return ModelConstantTensor(call);  // torch.div(7, 2): numbers alone do not come to the recording
  }
  if (PyLong_CheckExact(result.get()) && IsTensor(call.args[0]) && IsStorageOffset(call.callable))
    GuardOffsets(FakeSession::MetaOf(TensorOf(call.args[0])).storage);
  if (has_tensor && result.get() == Py_None) {
    recording->torch_graph.calls.push_back(std::move(record));
    return result.release();
  }
  result = PyRef::Steal(Scan(result.release()));
  if (!result) return nullptr;
  if (!HasFake(result.get())) {
    if (!IsSymbolic()) return result.release();
    return Answer(std::move(record), result.release(), TellsSizes(target));
  }
  if (IsTensor(result.get()) && IsFakeTensor(result.get())) {
    // What has another layout since, by transpose_ and its kin, is another value of the graph.
    const at::Tensor& made = TensorOf(result.get());
    auto row = torch_values.find(made.unsafeGetTensorImpl());
    const auto& values = recording->torch_graph.values;
    if (row != torch_values.end() &&
        at::IntArrayRef(values[static_cast<size_t>(row->second)].strides) != made.strides())
      torch_values.erase(row);
  }
  if (!Snapshot(result.get(), true, &record.result)) {
    return BreakNull(BreakCode::kUnsupportedCallable,
                     QualifiedName(call.callable) + " returns a " + Py_TYPE(result.get())->tp_name);
  }
  recording->torch_graph.calls.push_back(std::move(record));
  NoteData(recording->torch_graph.calls.back(), read_data);
  return result.release();
}

// A call of a leaf (RecordRequest::leaves): recorded as any other, and then told as one. Where its arguments or its
// results have no torch-level form, it is told call by call.
PyObject* RecorderState::Impl::CallLeaf(PyObject* method, const NativeCall& call) {
  std::vector<TorchCall>& calls = recording->torch_graph.calls;
  TorchCall record{.kind = method == nullptr ? TorchCall::Kind::kFunction : TorchCall::Kind::kMethod,
                   .target = PyRef::Borrow(method == nullptr ? call.callable : method),
                   .args = {},
                   .kwargs = {},
                   .result = {},
                   .location = CurrentLocation()};
  bool expressible = true;
  for (Py_ssize_t i = 0; expressible && i < call.total(); ++i) {
    TorchArgument argument;
    if (Prepare(call.args[i]) != 0) return nullptr;
    expressible = Snapshot(call.args[i], false, &argument);
    if (PyErr_Occurred()) return nullptr;
    if (i < call.nargs) {
      record.args.push_back(std::move(argument));
    } else {
      record.kwargs.emplace_back(PyRef::Borrow(PyTuple_GET_ITEM(call.kwnames, i - call.nargs)), std::move(argument));
    }
  }
  const size_t first = calls.size();
  entered_leaf = call.callable;
  PyRef result = PyRef::Steal(Call(call.callable, call.args, call.nargs, call.kwnames));
  if (!result || !expressible || calls.size() == first) return result.release();
  if (result.get() != Py_None && !Snapshot(result.get(), true, &record.result))
    return PyErr_Occurred() ? nullptr : result.release();
  calls.resize(first);
  calls.push_back(std::move(record));
  return result.release();
}

// A composite operator as one node: below autograd, the dispatcher has no other kernel of it than the recording's.
namespace {

// Tensors among the arguments of a call, and in lists and tuples among them, that gradients are asked for of.
std::vector<at::Tensor> Differentiable(const NativeCall& call) {
  std::vector<at::Tensor> found;
  const auto add = [&](PyObject* object) {
    if (IsTensor(object) && TensorOf(object).requires_grad()) found.push_back(TensorOf(object));
  };
  for (Py_ssize_t i = 0; at::GradMode::is_enabled() && i < call.total(); ++i) {
    PyObject* argument = call.args[i];
    add(argument);
    if (!PyTuple_CheckExact(argument) && !PyList_CheckExact(argument)) continue;
    for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(argument); ++k) add(PySequence_Fast_GET_ITEM(argument, k));
  }
  return found;
}

// lstm(input, hx, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first) and its kin, by cuDNN,
// which looks at where the weights lie. With dropout it draws random numbers, which no operator says.
constexpr Py_ssize_t kRecurrentArguments = 9;
bool IsRecurrentOnGpu(const NativeCall& call) {
  constexpr Py_ssize_t kBiases = 3, kDropout = 5, kTrain = 6;
  if (call.nargs != kRecurrentArguments || call.kwnames != nullptr || !IsTensor(call.args[0])) return false;
  if (!TensorOf(call.args[0]).is_cuda() || !PyBool_Check(call.args[kBiases])) return false;
  return call.args[kTrain] == Py_False ||
         (PyFloat_CheckExact(call.args[kDropout]) && PyFloat_AS_DOUBLE(call.args[kDropout]) == 0);
}

// Gives the tensors of a result a history that cannot be recorded: torch's own autograd runs the call.
void DifferentiateByTorch(PyObject* result, const std::vector<at::Tensor>& inputs) {
  const auto node =
      MakeNode<torch::autograd::Error>("a recurrent layer of cuDNN", torch::autograd::collect_next_edges(inputs));
  const Py_ssize_t count = PyTuple_Check(result) ? PyTuple_GET_SIZE(result) : 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    torch::autograd::set_history(TensorOf(PyTuple_GET_ITEM(result, i)), node);
  }
}

}  // namespace

PyObject* RecorderState::Impl::ModelTorchLeaf(const NativeCall& call) {
  const std::vector<at::Tensor> differentiable = Differentiable(call);
  const bool is_recurrent = IsRecurrentOnGpu(call);
  if (!is_recurrent && call.nargs == kRecurrentArguments)  // no other one has as many
    return CallTorch(TorchCall::Kind::kFunction, call.callable, call);
  const bool is_method = Py_TYPE(call.callable) == &PyMethodDescr_Type;
  PyObject* target = is_method ? reinterpret_cast<PyDescrObject*>(call.callable)->d_name : call.callable;
  return CallTorch(is_method ? TorchCall::Kind::kMethod : TorchCall::Kind::kFunction, target, call, [&] {
    std::optional<c10::impl::ExcludeDispatchKeyGuard> below_autograd;
    if (differentiable.empty() || is_recurrent)
      below_autograd.emplace(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
    PyObject* result = PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames);
    if (result != nullptr && is_recurrent && !differentiable.empty()) DifferentiateByTorch(result, differentiable);
    return result;
  });
}

// item, tolist, bool, ...: of what was made of constants alone, they are constants too; other numbers come of data.
PyObject* RecorderState::Impl::ModelTensorValue(const NativeCall& call) {
  std::optional<at::Tensor> known;
  if (call.total() == 1 && IsTensor(call.args[0])) known = session.KnownValue(TensorOf(call.args[0]));
  if ((!known || IsSymbolic()) && MayReadData()) return ReadNumbers(call);
  if (!known) return BreakNull(BreakCode::kTensorData, QualifiedName(call.callable));
  if (IsSymbolic()) StayStatic(QualifiedName(call.callable) + " of a tensor");
  FakeSession::Pause pause;
  Disarmed disarmed;
  PyRef tensor = PyRef::Steal(THPVariable_Wrap(*std::move(known)));
  return tensor ? PyObject_CallOneArg(call.callable, tensor.get()) : nullptr;
}

PyObject* RecorderState::Impl::CallOperator(const char* name, std::initializer_list<PyObject*> args,
                                            const Invoke& invoke) {
  PyRef function = OperatorFunction(name);
  if (!function) return nullptr;
  for (PyObject* argument : args) {
    if (PyUnicode_Check(argument)) return BreakNull(BreakCode::kTensorData, "a tensor is formatted");
  }
  return CallTorch(TorchCall::Kind::kFunction, function.get(),
                   {function.get(), args.begin(), static_cast<Py_ssize_t>(args.size()), nullptr}, invoke);
}

}  // namespace framejit
