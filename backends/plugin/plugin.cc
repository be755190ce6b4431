#include "backends/plugin/plugin.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/plugin/python_error.h"
#include "base/log.h"
#include "frame_eval/cpython/class_versions.h"
#include "frame_eval/guards/program_torch_state.h"
#include "graph/fx_export.h"
#include "graph/saved_tensor_hooks.h"

namespace framejit {
namespace {

// What the __torch_function__ of inputs does was recorded: it is not to be done again.
class PlainTensors {
 public:
  PlainTensors() : state_(TLS::get_disabled_state()) {
    if (state_ == at::impl::ENABLED) TLS::set_disabled_state(at::impl::SUBCLASSES_DISABLED);
  }
  ~PlainTensors() { TLS::set_disabled_state(state_); }
  PlainTensors(const PlainTensors&) = delete;
  PlainTensors& operator=(const PlainTensors&) = delete;

 private:
  using TLS = at::impl::PythonTorchFunctionTLS;
  const at::impl::TorchFunctionDisabledState state_;
};

// What the graph's calls set of torch's state and, where it raises, have not put back. What the program leaves changed
// is an effect of its own.
class TorchStateScope {
 public:
  TorchStateScope() : before_(ProgramTorchState::Current()) {}
  ~TorchStateScope() { before_.Set(); }
  TorchStateScope(const TorchStateScope&) = delete;
  TorchStateScope& operator=(const TorchStateScope&) = delete;

 private:
  const ProgramTorchState before_;
};

class PythonGraph : public CompiledGraph {
 public:
  PythonGraph(std::string name, PyRef callable, size_t output_count)
      : name_(std::move(name)), callable_(std::move(callable)), output_count_(output_count) {}

  // The last owner may be a thread without the GIL, or the interpreter may be gone.
  ~PythonGraph() override {
    if (!Py_IsInitialized()) {
      callable_.release();
      return;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    callable_ = PyRef();
    PyGILState_Release(state);
  }

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    TakeOutputs(Call(inputs).get(), outputs);
  }

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs, std::vector<PyRef>& numbers) {
    const PyRef result = Call(inputs);
    const auto tensors = static_cast<Py_ssize_t>(output_count_);
    TORCH_CHECK_TYPE(PyTuple_Check(result.get()), "backend '", name_, "': the compiled function must return a tuple");
    TORCH_CHECK(PyTuple_GET_SIZE(result.get()) >= tensors, "backend '", name_, "': too few results");
    TakeOutputs(PyRef::Steal(PyTuple_GetSlice(result.get(), 0, tensors)).get(), outputs);
    for (Py_ssize_t i = tensors; i < PyTuple_GET_SIZE(result.get()); ++i)
      numbers.push_back(PyRef::Borrow(PyTuple_GET_ITEM(result.get(), i)));
  }

  std::string Describe() const override { return absl::StrCat("Python backend ", name_, "\n"); }

 private:
  PyRef Call(c10::ArrayRef<at::Tensor> inputs) const {
    std::vector<PyRef> arguments;
    std::vector<PyObject*> raw;
    arguments.reserve(inputs.size());
    for (const at::Tensor& input : inputs) {
      arguments.push_back(PyRef::Steal(THPVariable_Wrap(input)));
      if (!arguments.back()) throw python_error();
      raw.push_back(arguments.back().get());
    }
    const PlainTensors plain;
    const TorchStateScope state;
    PyRef result = PyRef::Steal(PyObject_Vectorcall(callable_.get(), raw.data(), raw.size(), nullptr));
    if (!result) throw python_error();
    return result;
  }

  // A tuple or list of tensors, or the one tensor itself.
  void TakeOutputs(PyObject* result, std::vector<at::Tensor>& outputs) const {
    outputs.clear();
    if (THPVariable_Check(result)) {
      TakeOutput(result, outputs);
    } else {
      TORCH_CHECK_TYPE(PyTuple_Check(result) || PyList_Check(result), "backend '", name_,
                       "': the compiled function must return a tensor, or a tuple or list of tensors, not ",
                       Py_TYPE(result)->tp_name);
      PyRef items = PyRef::Steal(PySequence_Tuple(result));
      if (!items) throw python_error();
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items.get()); ++i) {
        TakeOutput(PyTuple_GET_ITEM(items.get(), i), outputs);
      }
    }
    TORCH_CHECK(outputs.size() == output_count_, "backend '", name_, "': the compiled function returned ",
                outputs.size(), " tensors where the graph has ", output_count_, " outputs");
  }

  void TakeOutput(PyObject* item, std::vector<at::Tensor>& outputs) const {
    TORCH_CHECK_TYPE(THPVariable_Check(item), "backend '", name_, "': output ", outputs.size(),
                     " of the compiled function is a ", Py_TYPE(item)->tp_name, ", not a tensor");
    outputs.push_back(THPVariable_Unpack(item));
  }

  const std::string name_;
  PyRef callable_;
  const size_t output_count_;
};

absl::StatusOr<PyRef> ExampleInputs(c10::ArrayRef<at::Tensor> inputs) {
  PyRef list = PyRef::Steal(PyList_New(static_cast<Py_ssize_t>(inputs.size())));
  if (!list) return TakePythonError("making the list of example inputs");
  for (size_t i = 0; i < inputs.size(); ++i) {
    PyObject* wrapped = THPVariable_Wrap(inputs[i]);
    if (wrapped == nullptr) return TakePythonError("wrapping an example input");
    PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), wrapped);
  }
  return list;
}

// module.attribute(...); null with a Python error set where anything fails.
PyRef CallModuleFunction(const char* module_name, const char* function, PyObject* args, PyObject* kwargs) {
  PyRef module = PyRef::Steal(PyImport_ImportModule(module_name));
  if (!module) return PyRef();
  PyRef callable = PyRef::Steal(PyObject_GetAttrString(module.get(), function));
  if (!callable) return PyRef();
  return PyRef::Steal(PyObject_Call(callable.get(), args, kwargs));
}

// Whose subclasses tracers of torch.fx patch while they run. A borrowed reference.
PyTypeObject* ModuleClass() {
  PyRef module = PyRef::Steal(PyImport_ImportModule("torch.nn"));
  PyRef type = module ? PyRef::Steal(PyObject_GetAttrString(module.get(), "Module")) : PyRef();
  PyErr_Clear();
  return type && PyType_Check(type.get()) ? reinterpret_cast<PyTypeObject*>(type.get()) : &PyBaseObject_Type;
}

class PythonBackend : public Backend {
 public:
  PythonBackend(std::string name, PyRef callable) : name_(std::move(name)), callable_(std::move(callable)) {}
  ~PythonBackend() override {
    if (!Py_IsInitialized()) {
      callable_.release();
      return;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    callable_ = PyRef();
    PyGILState_Release(state);
  }

  bool wants_functional_graph() const override { return false; }

  absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const CompileRequest& request) override {
    if (request.graph == nullptr || request.torch_graph == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("backend '", name_, "': no torch-level graph was given"));
    }
    auto module = ExportTorchGraph(*request.torch_graph, *request.graph);
    if (!module.ok()) return module.status();
    auto compiled = callable_ ? CallBackend(module->get(), request.example_inputs) : Forward(module->get());
    if (!compiled.ok()) return compiled.status();
    return std::make_unique<PythonGraph>(name_, *std::move(compiled), request.torch_graph->outputs.size());
  }

  absl::StatusOr<OpenModule> CompileOpen(const OpenRequest& request) {
    FxOptions options{.program = request.program, .results = request.results};
    PyRef args = callable_ ? BuilderArguments(request) : PyRef();
    if (callable_) {
      options.builder = args ? CallModuleFunction("framejit._fx_sizes", "SizedBuilder", args.get(), nullptr) : PyRef();
      if (!options.builder) return TakePythonError("making sizes symbolic");
    }
    absl::StatusOr<PyRef> module = Export(request, options);
    if (!module.ok()) return module.status();
    OpenModule open;
    absl::StatusOr<PyRef> compiled;
    if (callable_) {
      const KeptClassVersions versions(ModuleClass());
      PyRef made =
          PyRef::Steal(PyObject_CallMethod(options.builder.get(), "compile", "OO", module->get(), callable_.get()));
      if (!made) return TakePythonError(absl::StrCat("backend '", name_, "'"));
      compiled = PyRef::Borrow(PyTuple_GET_ITEM(made.get(), 0));
      open.holds = PyRef::Borrow(PyTuple_GET_ITEM(made.get(), 1));
      const char* text = PyUnicode_AsUTF8(PyTuple_GET_ITEM(made.get(), 2));
      if (text == nullptr) return TakePythonError("telling what a module assumes of sizes");
      open.text = text;
    } else {
      compiled = Forward(module->get());
    }
    if (!compiled.ok()) return compiled.status();
    open.graph = std::make_shared<PythonGraph>(name_, *std::move(compiled), request.torch_graph->outputs.size());
    return open;
  }

 private:
  // Making the values calls what the program called, on fakes.
  static absl::StatusOr<PyRef> Export(const OpenRequest& request, const FxOptions& options) {
    const PlainTensors plain;
    const TorchStateScope state;
    const PausedSavedTensorHooks hooks;
    return ExportTorchGraph(*request.torch_graph, *request.graph, options);
  }

  // (inputs, which vary, whether sizes come of data); null: a Python error is set.
  static PyRef BuilderArguments(const OpenRequest& request) {
    const auto count = static_cast<Py_ssize_t>(request.inputs.size());
    PyRef inputs = PyRef::Steal(PyList_New(count)), varies = PyRef::Steal(PyList_New(count));
    for (Py_ssize_t i = 0; inputs && varies && i < count; ++i) {
      const auto index = static_cast<size_t>(i);
      PyList_SET_ITEM(inputs.get(), i, Py_NewRef(request.inputs[index]));
      PyList_SET_ITEM(varies.get(), i, PyBool_FromLong(request.program->varies[index] ? 1 : 0));
    }
    PyObject* of_data = request.program->of_data ? Py_True : Py_False;
    return inputs && varies ? PyRef::Steal(PyTuple_Pack(3, inputs.get(), varies.get(), of_data)) : PyRef();
  }

  absl::StatusOr<PyRef> Forward(PyObject* module) const {
    PyRef forward = PyRef::Steal(PyObject_GetAttrString(module, "forward"));
    if (!forward) return TakePythonError("reading the graph module's forward");
    return forward;
  }

  absl::StatusOr<PyRef> CallBackend(PyObject* module, c10::ArrayRef<at::Tensor> inputs) const {
    auto examples = ExampleInputs(inputs);
    if (!examples.ok()) return examples.status();
    const KeptClassVersions versions(ModuleClass());
    PyRef compiled = PyRef::Steal(PyObject_CallFunctionObjArgs(callable_.get(), module, examples->get(), nullptr));
    if (!compiled) return TakePythonError(absl::StrCat("backend '", name_, "'"));
    if (!PyCallable_Check(compiled.get())) {
      return absl::InvalidArgumentError(
          absl::StrCat("backend '", name_, "' returned a ", Py_TYPE(compiled.get())->tp_name, ", not a callable"));
    }
    return compiled;
  }

  const std::string name_;
  PyRef callable_;  // null: the graph module as it is
};

PyRef EntryPoints() {
  PyRef args = PyRef::Steal(PyTuple_New(0));
  PyRef kwargs = PyRef::Steal(Py_BuildValue("{s:s}", "group", "framejit.backends"));
  if (!args || !kwargs) return PyRef();
  return CallModuleFunction("importlib.metadata", "entry_points", args.get(), kwargs.get());
}

std::vector<std::string> TakeNames(PyRef iterable) {
  std::vector<std::string> names;
  PyRef list = iterable ? PyRef::Steal(PySequence_List(iterable.get())) : PyRef();
  for (Py_ssize_t i = 0; list && i < PyList_GET_SIZE(list.get()); ++i) {
    const char* name = PyUnicode_AsUTF8(PyList_GET_ITEM(list.get(), i));
    if (name == nullptr) break;
    names.push_back(name);
  }
  if (PyErr_Occurred() != nullptr) LogWarning(std::string(TakePythonError("listing backends").message()));
  return names;
}

std::vector<std::string> EntryPointNames() {
  PyRef points = EntryPoints();
  return TakeNames(points ? PyRef::Steal(PyObject_GetAttrString(points.get(), "names")) : PyRef());
}

std::vector<std::string> TorchNames() {
  PyRef args = PyRef::Steal(Py_BuildValue("(())"));
  if (!args) return TakeNames(PyRef());
  return TakeNames(CallModuleFunction("torch._dynamo", "list_backends", args.get(), nullptr));
}

absl::StatusOr<PyRef> LoadEntryPoint(const std::string& name) {
  PyRef points = EntryPoints();
  if (!points) return TakePythonError("reading the entry points 'framejit.backends'");
  PyRef key = PyRef::Steal(PyUnicode_FromString(name.c_str()));
  PyRef point = key ? PyRef::Steal(PyObject_GetItem(points.get(), key.get())) : PyRef();
  PyRef loaded = point ? PyRef::Steal(PyObject_CallMethod(point.get(), "load", nullptr)) : PyRef();
  if (!loaded) return TakePythonError(absl::StrCat("loading the entry point of backend '", name, "'"));
  return loaded;
}

absl::StatusOr<PyRef> LookUpInTorch(const std::string& name) {
  PyRef args = PyRef::Steal(Py_BuildValue("(s)", name.c_str()));
  PyRef found =
      args ? CallModuleFunction("torch._dynamo.backends.registry", "lookup_backend", args.get(), nullptr) : PyRef();
  if (!found) return TakePythonError(absl::StrCat("looking up backend '", name, "' in torch"));
  return found;
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::StatusOr<std::shared_ptr<Backend>> FindPythonBackend(std::string_view wanted) {
  std::string name(wanted);
  absl::StatusOr<PyRef> callable = absl::NotFoundError(absl::StrCat("no Python backend '", name, "'"));
  if (Contains(EntryPointNames(), name)) {
    callable = LoadEntryPoint(name);
  } else if (Contains(TorchNames(), name)) {
    callable = LookUpInTorch(name);
  }
  if (!callable.ok()) return callable.status();
  return MakePythonBackend(std::move(name), *std::move(callable));
}

std::vector<std::string> PythonNames() {
  std::vector<std::string> names = EntryPointNames();
  for (std::string& name : TorchNames()) names.push_back(std::move(name));
  return names;
}

}  // namespace

std::shared_ptr<Backend> MakePythonBackend(std::string name, PyRef callable) {
  return std::make_shared<PythonBackend>(std::move(name), std::move(callable));
}

std::shared_ptr<Backend> MakeEagerBackend() { return std::make_shared<PythonBackend>("eager", PyRef()); }

absl::StatusOr<OpenModule> CompileOpen(Backend& backend, const OpenRequest& request) {
  auto* python = dynamic_cast<PythonBackend*>(&backend);
  if (python == nullptr) return absl::InvalidArgumentError("no Python backend");
  return python->CompileOpen(request);
}

void RunModule(CompiledGraph& module, c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs,
               std::vector<PyRef>& numbers) {
  dynamic_cast<PythonGraph&>(module).Run(inputs, outputs, numbers);
}

absl::StatusOr<bool> Holds(const OpenModule& module, absl::Span<PyObject* const> inputs) {
  if (!module.holds) return true;
  const PlainTensors plain;
  PyRef holds = PyRef::Steal(PyObject_Vectorcall(module.holds.get(), inputs.data(), inputs.size(), nullptr));
  if (!holds) return TakePythonError("checking what a module assumes of sizes");
  return holds.get() == Py_True;
}

BackendResolver MakePythonResolver() { return {FindPythonBackend, PythonNames}; }

}  // namespace framejit
