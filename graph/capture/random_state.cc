// Generators of random numbers: torch.manual_seed, torch.Generator and the states of generators become operators of the
// graph (graph/fake/random_state_operators.h), in order among those that draw. A graph holds generators of its own:
// those that the program makes, which are seeded anew on each call, and one for each that comes from outside, whose
// state it is lent. torch's default one is itself.
#include "graph/capture/random_state.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GeneratorImpl.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>

#include "graph/capture/imported.h"
#include "graph/capture/recorder_impl.h"
#include "graph/capture/unrecorded.h"
#include "graph/fake/random_state_operators.h"

namespace framejit {
namespace {

using MaybeGenerator = std::optional<at::Generator>;

const at::Generator& GeneratorOf(PyObject* object) { return reinterpret_cast<THPGenerator*>(object)->cdata; }

template <typename Signature>
c10::TypedOperatorHandle<Signature> Operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

std::string_view MethodName(PyObject* callable) {
  const char* name = PyUnicode_AsUTF8(reinterpret_cast<PyDescrObject*>(callable)->d_name);
  return name == nullptr ? "" : name;
}

TorchArgument ConstantArgument(PyObject* object) {
  TorchArgument argument;
  argument.constant = PyRef::Borrow(object);
  return argument;
}

// What set_state takes; for anything else it raises.
bool IsState(PyObject* object) {
  if (!IsTensor(object) || !IsFakeTensor(object)) return false;
  const at::Tensor& tensor = TensorOf(object);
  return tensor.scalar_type() == at::kByte && tensor.is_cpu() && tensor.is_contiguous() &&
         tensor.numel() == RandomStateSize();
}

}  // namespace

PyRef GeneratorFor(PyObject* generator) {
  const at::Generator& real = GeneratorOf(generator);
  if (!real.device().is_cpu() || real == at::detail::getDefaultCPUGenerator()) return PyRef::Borrow(generator);
  return PyRef::Steal(THPGenerator_Wrap(at::detail::createCPUGenerator()));
}

int RecorderState::Impl::UseGenerator(PyObject* generator) {
  if (!used_generators.insert(generator).second) return 0;
  kept_alive.push_back(PyRef::Borrow(generator));
  if (!GeneratorOf(generator).device().is_cpu())
    return BreakInt(BreakCode::kTorchState, "a generator that is not on the CPU");
  const Provenance* provenance = FindKnown(generator);
  const bool itself = provenance != nullptr && provenance->real.get() == generator;
  if (itself && !provenance->pinned) AddGuard(GuardKind::kIdentityIs, provenance->source, generator);
  return 0;
}

// `generator` null: torch.manual_seed. Returns None; a seed that eager refuses, or reads otherwise, breaks.
PyObject* RecorderState::Impl::Seed(TorchCall call, PyObject* generator, PyObject* seed) {
  if (InsideTransform()) return BreakNull(BreakCode::kTorchState, "a generator is seeded inside a transform");
  int overflow = 0;
  const long long value = PyLong_CheckExact(seed) ? PyLong_AsLongLongAndOverflow(seed, &overflow) : -1;
  if (overflow != 0 || value < 0) return PyErr_Clear(), BreakNull(BreakCode::kTorchState, "a seed that is no count");
  call.location = CurrentLocation();
  session.SetPosition(call.location, static_cast<int32_t>(recording->torch_graph.calls.size()));
  static const auto seed_operator = Operator<void(const MaybeGenerator&, int64_t)>("framejit::seed");
  seed_operator.call(generator == nullptr ? MaybeGenerator() : GeneratorOf(generator), value);
  if (CheckFailure() != 0) return nullptr;
  recording->torch_graph.calls.push_back(std::move(call));
  changes_random_state = true;
  Py_RETURN_NONE;
}

PyObject* RecorderState::Impl::ModelManualSeed(const NativeCall& call) {
  if (call.total() != 1) return BreakNull(BreakCode::kTorchState, "torch.manual_seed");
  TorchCall record{.kind = TorchCall::Kind::kFunction,
                   .target = PyRef::Borrow(call.callable),
                   .args = {ConstantArgument(call.args[0])},
                   .kwargs = {},
                   .result = {}};
  PyRef seeded = PyRef::Steal(Seed(std::move(record), nullptr, call.args[0]));
  PyRef generator = seeded ? ImportedAttribute("torch._C", "default_generator") : PyRef();
  if (generator) Remember(generator.get(), generator.get(), Pinned(generator.get()), true);
  return generator.release();
}

PyObject* RecorderState::Impl::ModelNewGenerator(const NativeCall& call) {
  for (Py_ssize_t i = 0; i < call.total(); ++i) {
    const bool known = IsPrimitive(call.args[i]) || Py_TYPE(call.args[i]) == Names().device;
    if (!known) return BreakNull(BreakCode::kUnsupportedCallable, "torch.Generator");
  }
  PyRef generator = PyRef::Steal(CallUnrecorded(call));
  if (!generator) return nullptr;
  if (UseGenerator(generator.get()) != 0) return nullptr;
  recording->own_generators = true;
  PyRef method = PyRef::Steal(PyUnicode_InternFromString("manual_seed"));
  PyRef seed = PyRef::Steal(PyLong_FromUnsignedLongLong(c10::default_rng_seed_val));
  if (!method || !seed) return nullptr;
  TorchCall record{.kind = TorchCall::Kind::kMethod,
                   .target = std::move(method),
                   .args = {ConstantArgument(generator.get()), ConstantArgument(seed.get())},
                   .kwargs = {},
                   .result = {}};
  PyRef seeded = PyRef::Steal(Seed(std::move(record), generator.get(), seed.get()));
  return seeded ? generator.release() : nullptr;
}

PyObject* RecorderState::Impl::ModelGeneratorMethod(const NativeCall& call) {
  PyObject* name = reinterpret_cast<PyDescrObject*>(call.callable)->d_name;
  const std::string_view method = MethodName(call.callable);
  const Py_ssize_t expected = method == "get_state" ? 1 : 2;
  if (call.nargs != expected || call.kwnames != nullptr || Py_TYPE(call.args[0]) != Names().generator)
    return BreakNull(BreakCode::kTorchState, QualifiedName(call.callable));
  PyObject* generator = call.args[0];
  if (UseGenerator(generator) != 0) return nullptr;
  PyRef done;
  if (method == "manual_seed") {
    TorchCall record{.kind = TorchCall::Kind::kMethod,
                     .target = PyRef::Borrow(name),
                     .args = {ConstantArgument(generator), ConstantArgument(call.args[1])},
                     .kwargs = {},
                     .result = {}};
    done = PyRef::Steal(Seed(std::move(record), generator, call.args[1]));
    return done ? Py_NewRef(generator) : nullptr;
  }
  if (InsideTransform()) return BreakNull(BreakCode::kTorchState, QualifiedName(call.callable));
  if (method == "get_state") {
    static const auto get = Operator<at::Tensor(const MaybeGenerator&)>("framejit::random_state");
    return RecordTorch(TorchCall::Kind::kMethod, name, call,
                       [&] { return THPVariable_Wrap(get.call(GeneratorOf(generator))); });
  }
  if (!IsState(call.args[1])) return BreakNull(BreakCode::kTorchState, QualifiedName(call.callable));
  static const auto set = Operator<void(const MaybeGenerator&, const at::Tensor&)>("framejit::set_random_state");
  done = PyRef::Steal(RecordTorch(TorchCall::Kind::kMethod, name, call, [&]() -> PyObject* {
    set.call(GeneratorOf(generator), TensorOf(call.args[1]));
    Py_RETURN_NONE;
  }));
  changes_random_state = true;
  return done ? Py_NewRef(generator) : nullptr;
}

}  // namespace framejit
