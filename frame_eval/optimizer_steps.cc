#include "frame_eval/optimizer_steps.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <variant>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "backends/optimizers/updates.h"
#include "base/log.h"
#include "graph/capture/well_known.h"

namespace framejit {
namespace {

constexpr int64_t kGrain = 32768;  // elements per thread, at least

using Kind = OptimizerMethodKind;

struct Registry {
  std::vector<OptimizerMethod> methods;
  std::vector<PyRef> hooks;
};

Registry& Methods() {
  static auto* registry = new Registry;
  return *registry;
}

const OptimizerMethod* FindMethod(FrameView frame) {
  auto* function = reinterpret_cast<PyFunctionObject*>(frame.function());
  if (function->func_closure == nullptr) return nullptr;
  for (const OptimizerMethod& method : Methods().methods) {
    if (method.wrapper_code.get() != reinterpret_cast<PyObject*>(frame.code())) continue;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(function->func_closure); ++i) {
      if (PyCell_GET(PyTuple_GET_ITEM(function->func_closure, i)) == method.function.get()) return &method;
    }
  }
  return nullptr;
}

// A borrowed item of a dict, or null; a missing key is no exception, and any exception means that the frame runs.
PyObject* Item(PyObject* dict, const char* key) {
  if (dict == nullptr || !PyDict_Check(dict)) return nullptr;
  PyRef name = PyRef::Steal(PyUnicode_InternFromString(key));
  PyObject* value = name ? PyDict_GetItemWithError(dict, name.get()) : nullptr;
  if (value == nullptr) PyErr_Clear();
  return value;
}

bool IsFalsy(PyObject* value) { return value == nullptr || value == Py_None || value == Py_False; }

// The numbers and switches of a parameter group; `ok` turns false at the first that is not what it should be.
class Group {
 public:
  explicit Group(PyObject* dict) : dict_(dict) {}
  bool ok() const { return ok_; }

  double Number(const char* key) { return ToNumber(Item(dict_, key)); }
  bool Switch(const char* key) {
    PyObject* value = Item(dict_, key);
    ok_ &= value == Py_True || value == Py_False;
    return value == Py_True;
  }
  std::pair<double, double> Pair(const char* key) {
    PyObject* value = Item(dict_, key);
    ok_ &= value != nullptr && PyTuple_CheckExact(value) && PyTuple_GET_SIZE(value) == 2;
    if (!ok_) return {};
    return {ToNumber(PyTuple_GET_ITEM(value, 0)), ToNumber(PyTuple_GET_ITEM(value, 1))};
  }
  // What this file does not do.
  void Refuse(const char* key) { ok_ &= IsFalsy(Item(dict_, key)); }

 private:
  double ToNumber(PyObject* value) {
    ok_ &= value != nullptr && (PyFloat_CheckExact(value) || PyLong_CheckExact(value));
    if (!ok_) return 0;
    const double number = PyFloat_AsDouble(value);
    if (PyErr_Occurred() == nullptr) return number;
    PyErr_Clear();
    ok_ = false;
    return 0;
  }

  PyObject* dict_;
  bool ok_ = true;
};

using AnyUpdate = std::variant<SgdUpdate, AdamUpdate, RmspropUpdate, AdagradUpdate>;

// The updates of a group before the steps are counted; nothing where one of its options is not done here.
std::optional<AnyUpdate> ReadGroup(Kind kind, PyObject* dict) {
  Group group(dict);
  for (const char* key : {"differentiable", "capturable", "fused"}) group.Refuse(key);
  AnyUpdate update;
  const double lr = group.Number("lr");
  const double weight_decay = group.Number("weight_decay");
  const bool maximize = group.Switch("maximize");
  switch (kind) {
    case Kind::kSgd:
      update = SgdUpdate{.lr = lr,
                         .momentum = group.Number("momentum"),
                         .dampening = group.Number("dampening"),
                         .weight_decay = weight_decay,
                         .nesterov = group.Switch("nesterov"),
                         .maximize = maximize};
      break;
    case Kind::kAdam: {
      const auto [beta1, beta2] = group.Pair("betas");
      update = AdamUpdate{.lr = lr,
                          .beta1 = beta1,
                          .beta2 = beta2,
                          .eps = group.Number("eps"),
                          .weight_decay = weight_decay,
                          .decoupled = group.Switch("decoupled_weight_decay"),
                          .amsgrad = group.Switch("amsgrad"),
                          .maximize = maximize};
      break;
    }
    case Kind::kRmsprop:
      update = RmspropUpdate{.lr = lr,
                             .alpha = group.Number("alpha"),
                             .eps = group.Number("eps"),
                             .weight_decay = weight_decay,
                             .momentum = group.Number("momentum"),
                             .centered = group.Switch("centered"),
                             .maximize = maximize};
      break;
    case Kind::kAdagrad:
      update = AdagradUpdate{.lr = lr,
                             .lr_decay = group.Number("lr_decay"),
                             .eps = group.Number("eps"),
                             .weight_decay = weight_decay,
                             .maximize = maximize};
      break;
    case Kind::kZeroGrad:
      return std::nullopt;
  }
  if (!group.ok()) return std::nullopt;
  return update;
}

// The keys of a parameter's state in the order of UpdateStreams::state; null: unused.
std::array<const char*, 3> StateKeys(const AnyUpdate& any) {
  if (const auto* update = std::get_if<SgdUpdate>(&any)) {
    return {update->momentum != 0 ? "momentum_buffer" : nullptr, nullptr, nullptr};
  }
  if (const auto* update = std::get_if<AdamUpdate>(&any)) {
    return {"exp_avg", "exp_avg_sq", update->amsgrad ? "max_exp_avg_sq" : nullptr};
  }
  if (const auto* update = std::get_if<RmspropUpdate>(&any)) {
    return {"square_avg", update->momentum > 0 ? "momentum_buffer" : nullptr, update->centered ? "grad_avg" : nullptr};
  }
  return {"sum", nullptr, nullptr};
}

bool HasSteps(const AnyUpdate& any) { return !std::holds_alternative<SgdUpdate>(any); }

bool IsPlainTensor(PyObject* object) {
  return object != nullptr && (Py_TYPE(object) == Names().tensor || Py_TYPE(object) == Names().parameter);
}

// The same elements in the same places; what the stride of a dimension of size 1 is does not matter.
bool HasLayoutOf(const at::Tensor& tensor, const at::Tensor& parameter) {
  if (tensor.sizes() != parameter.sizes()) return false;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) != 1 && tensor.stride(i) != parameter.stride(i)) return false;
  }
  return true;
}

// Whether a kernel may walk over the memory of both side by side.
bool IsLike(const at::Tensor& tensor, const at::Tensor& parameter) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.device().is_cpu() &&
         tensor.scalar_type() == parameter.scalar_type() && !tensor.is_neg() && !tensor.is_inference() &&
         HasLayoutOf(tensor, parameter);
}

bool IsUpdatable(const at::Tensor& parameter) {
  const at::ScalarType type = parameter.scalar_type();
  return parameter.layout() == at::kStrided && parameter.device().is_cpu() &&
         (type == at::kFloat || type == at::kDouble) && !parameter.is_inference() && !parameter.is_neg() &&
         parameter.is_non_overlapping_and_dense() && parameter.key_set().has(c10::DispatchKey::CPU);
}

struct Job {
  AnyUpdate update;
  at::ScalarType type;
  int64_t size = 0;
  void* parameter = nullptr;
  const void* gradient = nullptr;
  std::array<void*, 3> state = {};
  float* step = nullptr;
  absl::InlinedVector<at::Tensor, 5> written;  // hold what the pointers are into
  at::Tensor held_gradient;
};

struct Range {
  const char* begin;
  const char* end;
};

// Eager's foreach functions go over all parameters operator by operator: one pass over each is the same only where no
// two share memory.
bool AreApart(const std::vector<Job>& jobs) {
  std::vector<Range> ranges;
  auto add = [&](const void* data, const Job& job) {
    if (data == nullptr || job.size == 0) return;
    const auto* begin = static_cast<const char*>(data);
    ranges.push_back({begin, begin + job.size * static_cast<int64_t>(c10::elementSize(job.type))});
  };
  for (const Job& job : jobs) {
    add(job.parameter, job);
    add(job.gradient, job);
    for (void* state : job.state) add(state, job);
    if (job.step == nullptr) continue;
    const auto* step = reinterpret_cast<const char*>(job.step);
    ranges.push_back({step, step + sizeof(float)});
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) return false;
  }
  return true;
}

// A state tensor of the parameter's form; null where there is none, on the first step for example.
void* StateData(PyObject* state, const char* key, const at::Tensor& parameter, Job* job) {
  PyObject* object = Item(state, key);
  if (!IsPlainTensor(object)) return nullptr;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!IsLike(tensor, parameter) || tensor.requires_grad()) return nullptr;
  job->written.push_back(tensor);
  return tensor.data_ptr();
}

float* StepData(PyObject* state, Job* job) {
  PyObject* object = Item(state, "step");
  if (!IsPlainTensor(object)) return nullptr;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (tensor.dim() != 0 || tensor.scalar_type() != at::kFloat || tensor.layout() != at::kStrided ||
      !tensor.device().is_cpu() || tensor.requires_grad() || tensor.is_inference())
    return nullptr;
  job->written.push_back(tensor);
  return tensor.data_ptr<float>();
}

absl::Status Refuse(std::string reason) { return absl::FailedPreconditionError(std::move(reason)); }

// Fails where the parameter cannot be updated here. One without a gradient adds no job.
absl::Status AddJob(const AnyUpdate& update, PyObject* states, PyObject* object, std::vector<Job>* jobs) {
  if (!IsPlainTensor(object)) return Refuse("a parameter of a class of its own");
  const at::Tensor& parameter = THPVariable_Unpack(object);
  const at::Tensor& gradient = parameter.grad();
  if (!gradient.defined()) return absl::OkStatus();
  if (!IsUpdatable(parameter)) return Refuse("a parameter that is not a dense tensor of floats on the CPU");
  if (!IsLike(gradient, parameter)) return Refuse("a gradient of another type or layout than its parameter's");
  Job job{.update = update, .type = parameter.scalar_type(), .size = parameter.numel()};
  job.parameter = parameter.data_ptr();
  job.gradient = gradient.const_data_ptr();
  job.written.push_back(parameter);
  job.held_gradient = gradient;
  const std::array<const char*, 3> keys = StateKeys(update);
  const bool needs_state = keys[0] != nullptr;
  // Tensors are hashed by a function in Python.
  PyRef state = PyRef::Borrow(needs_state ? PyDict_GetItemWithError(states, object) : nullptr);
  if (needs_state && !state) return PyErr_Clear(), Refuse("a parameter without state: this is its first step");
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == nullptr) continue;
    job.state[i] = StateData(state.get(), keys[i], parameter, &job);
    if (job.state[i] == nullptr) return Refuse(absl::StrCat("state without a usable ", keys[i]));
  }
  if (HasSteps(update)) {
    job.step = StepData(state.get(), &job);
    if (job.step == nullptr) return Refuse("state without a usable step");
  }
  jobs->push_back(std::move(job));
  return absl::OkStatus();
}

template <typename T, typename U>
void UpdateAll(const U& update, const Job& job) {
  UpdateStreams<T> streams{static_cast<T*>(job.parameter), static_cast<const T*>(job.gradient), {}};
  for (size_t i = 0; i < job.state.size(); ++i) streams.state[i] = static_cast<T*>(job.state[i]);
  if (job.size <= kGrain) return Update(update, streams, 0, job.size);
  at::parallel_for(0, job.size, kGrain, [&](int64_t begin, int64_t end) { Update(update, streams, begin, end); });
}

void RunJob(Job& job) {
  if (job.step != nullptr) *job.step += 1;
  if (auto* adam = std::get_if<AdamUpdate>(&job.update)) adam->step = *job.step;
  if (auto* adagrad = std::get_if<AdagradUpdate>(&job.update)) adagrad->step = *job.step;
  std::visit(
      [&](const auto& update) {
        job.type == at::kFloat ? UpdateAll<float>(update, job) : UpdateAll<double>(update, job);
      },
      job.update);
  for (const at::Tensor& tensor : job.written) tensor.unsafeGetTensorImpl()->bump_version();
}

bool HasHooks(PyObject* hooks) { return hooks == nullptr || !PyDict_Check(hooks) || PyDict_GET_SIZE(hooks) != 0; }

absl::Status RunStep(const OptimizerMethod& method, PyObject* self, PyObject* attributes) {
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(self));
  if (std::none_of(method.types.begin(), method.types.end(), [&](const PyRef& row) { return row.get() == type; }))
    return Refuse("a class of its own");
  std::vector<PyObject*> hooks{Item(attributes, "_optimizer_step_pre_hooks"),
                               Item(attributes, "_optimizer_step_post_hooks")};
  for (const PyRef& row : Methods().hooks) hooks.push_back(row.get());
  if (std::any_of(hooks.begin(), hooks.end(), HasHooks)) return Refuse("hooks");
  for (const char* key : {"grad_scale", "found_inf"}) {
    if (!IsFalsy(Item(attributes, key))) return Refuse("a scaler's attributes");
  }
  PyRef groups = PyRef::Borrow(Item(attributes, "param_groups"));
  PyRef states = PyRef::Borrow(Item(attributes, "state"));
  if (!groups || !PyList_CheckExact(groups.get()) || !states || !PyDict_Check(states.get()))
    return Refuse("other attributes than torch's");
  std::vector<Job> jobs;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(groups.get()); ++i) {
    PyRef group = PyRef::Borrow(PyList_GET_ITEM(groups.get(), i));
    PyRef parameters = PyRef::Borrow(Item(group.get(), "params"));
    std::optional<AnyUpdate> update = ReadGroup(method.kind, group.get());
    if (!update.has_value() || !parameters || !PyList_CheckExact(parameters.get()))
      return Refuse("an option of a parameter group");
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(parameters.get()); ++k) {
      PyRef parameter = PyRef::Borrow(PyList_GET_ITEM(parameters.get(), k));
      if (absl::Status status = AddJob(*update, states.get(), parameter.get(), &jobs); !status.ok()) return status;
    }
  }
  if (!AreApart(jobs)) return Refuse("tensors that share memory");
  for (Job& job : jobs) RunJob(job);
  return absl::OkStatus();
}

absl::Status RunZeroGrad(PyObject* attributes) {
  // Without it, this is the first call, which wraps the class's step.
  if (Item(attributes, "_zero_grad_profile_name") == nullptr) return Refuse("the first call");
  PyObject* groups = Item(attributes, "param_groups");
  if (groups == nullptr || !PyList_CheckExact(groups)) return Refuse("other attributes than torch's");
  std::vector<PyRef> parameters;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(groups); ++i) {
    PyObject* list = Item(PyList_GET_ITEM(groups, i), "params");
    if (list == nullptr || !PyList_CheckExact(list)) return Refuse("other attributes than torch's");
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(list); ++k) {
      PyObject* parameter = PyList_GET_ITEM(list, k);
      if (!IsPlainTensor(parameter)) return Refuse("a parameter of a class of its own");
      if (THPVariable_Unpack(parameter).grad().defined()) parameters.push_back(PyRef::Borrow(parameter));
    }
  }
  for (const PyRef& parameter : parameters) THPVariable_Unpack(parameter.get()).mutable_grad().reset();
  return absl::OkStatus();
}

// The arguments of a function(*args, **kwargs), which are all that is passed on: self, and nothing unusual.
PyObject* OnlyArgument(FrameView frame) {
  PyObject* args = frame.localsplus()[0];
  PyObject* kwargs = frame.localsplus()[1];
  if (args == nullptr || !PyTuple_CheckExact(args) || PyTuple_GET_SIZE(args) != 1) return nullptr;
  if (kwargs == nullptr || !PyDict_CheckExact(kwargs) || PyDict_GET_SIZE(kwargs) != 0) return nullptr;
  return PyTuple_GET_ITEM(args, 0);
}

}  // namespace

std::optional<OptimizerMethodKind> OptimizerMethodNamed(std::string_view name) {
  if (name == "zero_grad") return Kind::kZeroGrad;
  if (name == "sgd") return Kind::kSgd;
  if (name == "adam") return Kind::kAdam;
  if (name == "rmsprop") return Kind::kRmsprop;
  if (name == "adagrad") return Kind::kAdagrad;
  return std::nullopt;
}

void SetOptimizerMethods(std::vector<OptimizerMethod> methods, std::vector<PyRef> hooks) {
  Methods() = {std::move(methods), std::move(hooks)};
}

bool IsOptimizerMethod(PyCodeObject* code) {
  const auto& methods = Methods().methods;
  return std::any_of(methods.begin(), methods.end(), [&](const OptimizerMethod& method) {
    return method.wrapper_code.get() == reinterpret_cast<PyObject*>(code);
  });
}

bool RunOptimizerMethod(FrameView frame) {
  const OptimizerMethod* method = FindMethod(frame);
  if (method == nullptr) return false;
  PyObject* self = OnlyArgument(frame);
  PyRef attributes = PyRef::Steal(self == nullptr ? nullptr : PyObject_GenericGetDict(self, nullptr));
  if (!attributes) PyErr_Clear();
  const bool clears = method->kind == Kind::kZeroGrad;
  absl::Status status;
  if (!attributes) {
    status = Refuse("a closure or other arguments");
  } else if (at::hasCallbacks() || c10::InferenceMode::is_enabled()) {
    status = Refuse("a profiler or inference mode");
  } else {
    status = clears ? RunZeroGrad(attributes.get()) : RunStep(*method, self, attributes.get());
  }
  if (!status.ok() && LogEnabled(LogArtifact::k_breaks)) {
    Log(LogArtifact::k_breaks,
        absl::StrCat(self == nullptr ? "an optimizer's" : Py_TYPE(self)->tp_name, clears ? ".zero_grad" : ".step",
                     " runs in Python: ", std::string(status.message())));
  }
  return status.ok();
}

}  // namespace framejit
