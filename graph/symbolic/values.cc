#include "graph/symbolic/values.h"

#include <torch/csrc/autograd/python_variable.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "graph/fake/fake_session.h"

namespace framejit {
namespace {

using Kind = TorchArgument::Kind;

bool IsTensor(PyObject* object) {
  return PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(THPVariableClass)) != 0;
}

// Recordings have no symbols for such ints.
bool IsLarge(PyObject* number) {
  int overflow = 0;
  if (PyLong_CheckExact(number)) PyLong_AsLongLongAndOverflow(number, &overflow);
  return overflow != 0;
}

// Keeps the collector, and with it the program's finalizers, from running.
class WithoutCollector {
 public:
  WithoutCollector() : was_on_(PyGC_Disable()) {}
  ~WithoutCollector() {
    if (was_on_ != 0) PyGC_Enable();
  }
  WithoutCollector(const WithoutCollector&) = delete;
  WithoutCollector& operator=(const WithoutCollector&) = delete;

 private:
  int was_on_;
};

}  // namespace

bool SameConstant(PyObject* expected, PyObject* actual) {
  if (expected == actual) return true;
  if (expected == nullptr || Py_TYPE(expected) != Py_TYPE(actual)) return false;
  if (PyFloat_CheckExact(expected) &&
      std::signbit(PyFloat_AS_DOUBLE(expected)) != std::signbit(PyFloat_AS_DOUBLE(actual)))
    return false;  // zeros
  const int same = PyObject_RichCompareBool(expected, actual, Py_EQ);
  if (same < 0) PyErr_Clear();
  return same == 1;
}

PyRef ReplayedValues::Call(const TorchCall& call, bool with_open) {
  with_open_ = with_open;
  PyRef args = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(call.args.size())));
  PyRef kwargs = PyRef::Steal(call.kwargs.empty() ? nullptr : PyDict_New());
  for (size_t i = 0; args && i < call.args.size(); ++i) {
    PyRef value = Build(call.args[i]);
    if (!value) return {};
    PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(i), value.release());
  }
  for (const auto& [key, argument] : call.kwargs) {
    PyRef value = Build(argument);
    if (!value || PyDict_SetItem(kwargs.get(), key.get(), value.get()) != 0) return {};
  }
  if (!args) return {};
  PyRef result;
  if (call.kind == TorchCall::Kind::kFunction) {
    result = PyRef::Steal(PyObject_Call(call.target.get(), args.get(), kwargs.get()));
  } else {
    PyRef attribute = PyRef::Steal(PyObject_GetAttr(PyTuple_GET_ITEM(args.get(), 0), call.target.get()));
    if (call.kind == TorchCall::Kind::kAttribute) {
      result = std::move(attribute);
    } else {
      PyRef rest = PyRef::Steal(PyTuple_GetSlice(args.get(), 1, PyTuple_GET_SIZE(args.get())));
      if (attribute && rest) result = PyRef::Steal(PyObject_Call(attribute.get(), rest.get(), kwargs.get()));
    }
  }
  return result;
}

PyRef ReplayedValues::Build(const TorchArgument& argument) {
  switch (argument.kind) {
    case Kind::kConstant:
      if (const auto symbol = static_cast<size_t>(argument.symbol); argument.symbol != kNoSymbol) {
        if (with_open_ && symbol < open.size() && open[symbol]) return open[symbol];
        return symbols[symbol];
      }
      return argument.constant ? argument.constant : PyRef::Borrow(Py_None);
    case Kind::kValue:
      if (!objects[static_cast<size_t>(argument.value)]) why = "a value that no replayed call made";
      return objects[static_cast<size_t>(argument.value)];
    case Kind::kDict: {
      PyRef dict = PyRef::Steal(PyDict_New());
      for (size_t i = 0; dict && i < argument.items.size(); ++i) {
        PyRef value = Build(argument.items[i]);
        if (!value || PyDict_SetItem(dict.get(), argument.keys[i].get(), value.get()) != 0) return {};
      }
      return dict;
    }
    case Kind::kTuple:
    case Kind::kList:
    case Kind::kSlice:
      break;
  }
  PyRef items = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(argument.items.size())));
  for (size_t i = 0; items && i < argument.items.size(); ++i) {
    PyRef value = Build(argument.items[i]);
    if (!value) return {};
    PyTuple_SET_ITEM(items.get(), static_cast<Py_ssize_t>(i), value.release());
  }
  if (!items) return {};
  if (argument.kind == Kind::kList) return PyRef::Steal(PySequence_List(items.get()));
  if (argument.kind == Kind::kSlice)
    return PyRef::Steal(PySlice_New(PyTuple_GET_ITEM(items.get(), 0), PyTuple_GET_ITEM(items.get(), 1),
                                    PyTuple_GET_ITEM(items.get(), 2)));
  if (!argument.constant) return items;
  auto* type = reinterpret_cast<PyTypeObject*>(argument.constant.get());
  PyRef alone = PyRef::Steal(PyTuple_Pack(1, items.get()));
  return alone ? PyRef::Steal(PyTuple_Type.tp_new(type, alone.get(), nullptr)) : PyRef();
}

bool ReplayedValues::Match(const TorchArgument& pattern, PyObject* result) {
  switch (pattern.kind) {
    case Kind::kValue: {
      if (!IsTensor(result) || (!real && !IsFake(THPVariable_Unpack(result)))) return false;
      // What was another tensor than its operand may be the operand here (contiguous, reshape), but not the reverse:
      // later calls name the operand where they mean this one.
      PyRef& object = objects[static_cast<size_t>(pattern.value)];
      if (object) return THPVariable_Unpack(object.get()).is_same(THPVariable_Unpack(result));
      object = PyRef::Borrow(result);
      return true;
    }
    case Kind::kConstant: {
      if (pattern.symbol == kNoSymbol) {
        return pattern.constant ? SameConstant(pattern.constant.get(), result) : result == Py_None;
      }
      if (Py_TYPE(result) != Py_TYPE(pattern.constant.get()) || IsLarge(result)) return false;
      symbols[static_cast<size_t>(pattern.symbol)] = PyRef::Borrow(result);
      return true;
    }
    case Kind::kDict: {
      if (!PyDict_Check(result) || PyDict_GET_SIZE(result) != static_cast<Py_ssize_t>(pattern.items.size()))
        return false;
      for (size_t i = 0; i < pattern.items.size(); ++i) {
        PyObject* item = PyDict_GetItemWithError(result, pattern.keys[i].get());
        if (item == nullptr || !Match(pattern.items[i], item)) return false;
      }
      return true;
    }
    case Kind::kTuple:
    case Kind::kList:
      break;
    case Kind::kSlice:
      return false;
  }
  const bool same_type = pattern.kind == Kind::kTuple ? PyTuple_Check(result) : PyList_Check(result);
  if (!same_type || PySequence_Fast_GET_SIZE(result) != static_cast<Py_ssize_t>(pattern.items.size())) return false;
  for (size_t i = 0; i < pattern.items.size(); ++i) {
    if (!Match(pattern.items[i], PySequence_Fast_GET_ITEM(result, static_cast<Py_ssize_t>(i)))) return false;
  }
  return true;
}

absl::Status EvaluateNumbers(const SymbolicProgram& program, const std::vector<std::string>& names,
                             absl::Span<PyObject* const> numbers, std::vector<PyRef>& symbols) {
  const WithoutCollector scope;
  ReplayedValues values(0, program.symbols.size());
  std::string why;
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (IsLarge(numbers[i])) return absl::FailedPreconditionError("a number is too large");
    values.symbols[static_cast<size_t>(program.numbers[i].symbol)] = PyRef::Borrow(numbers[i]);
  }
  for (const int32_t index : program.number_steps) {
    const SymbolStep& step = program.steps[static_cast<size_t>(index)];
    bool holds = false;
    if (step.kind == SymbolStep::Kind::kEqual) {
      const auto symbol = static_cast<size_t>(step.symbol);
      holds = SameConstant(program.symbols[symbol].hint.get(), values.symbols[symbol].get());
    } else {
      PyRef result = values.Call(step.ask);
      holds = result && values.Match(step.ask.result, result.get());
    }
    if (holds) continue;
    PyErr_Clear();
    return absl::FailedPreconditionError(UnmetText(step, program, names));
  }
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (values.symbols[i]) symbols[i] = std::move(values.symbols[i]);
  }
  return absl::OkStatus();
}

}  // namespace framejit
