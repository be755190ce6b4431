// Operators, comparison, identity, formatting.
#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/autograd/python_variable.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "graph/capture/printed.h"
#include "graph/capture/recorder_impl.h"
#include "graph/fake/plain_call.h"
#include "graph/operator_table.h"

namespace framejit {
namespace {

struct BinaryRow {
  const char* function;  // of module operator
  binaryfunc apply;
  // What torch's __add__ and so on come to with a tensor or a number on the right; null where they do other things.
  const char* op = nullptr;
  bool reflects = false;  // __radd__ comes to the same, tensor first
};

PyObject* Power(PyObject* a, PyObject* b) { return PyNumber_Power(a, b, Py_None); }
PyObject* InPlacePower(PyObject* a, PyObject* b) { return PyNumber_InPlacePower(a, b, Py_None); }

// In the order of the NB_* numbers of BINARY_OP (Include/opcode.h).
constexpr BinaryRow kBinary[] = {
    {"add", PyNumber_Add, "aten::add.Tensor", /*reflects=*/true},
    {"and_", PyNumber_And},
    {"floordiv", PyNumber_FloorDivide},
    {"lshift", PyNumber_Lshift},
    {"matmul", PyNumber_MatrixMultiply},
    {"mul", PyNumber_Multiply, "aten::mul.Tensor", /*reflects=*/true},
    {"mod", PyNumber_Remainder},
    {"or_", PyNumber_Or},
    {"pow", Power},
    {"rshift", PyNumber_Rshift},
    {"sub", PyNumber_Subtract, "aten::sub.Tensor"},
    {"truediv", PyNumber_TrueDivide, "aten::div.Tensor"},
    {"xor", PyNumber_Xor},
    {"iadd", PyNumber_InPlaceAdd},
    {"iand", PyNumber_InPlaceAnd},
    {"ifloordiv", PyNumber_InPlaceFloorDivide},
    {"ilshift", PyNumber_InPlaceLshift},
    {"imatmul", PyNumber_InPlaceMatrixMultiply},
    {"imul", PyNumber_InPlaceMultiply},
    {"imod", PyNumber_InPlaceRemainder},
    {"ior", PyNumber_InPlaceOr},
    {"ipow", InPlacePower},
    {"irshift", PyNumber_InPlaceRshift},
    {"isub", PyNumber_InPlaceSubtract},
    {"itruediv", PyNumber_InPlaceTrueDivide},
    {"ixor", PyNumber_InPlaceXor},
};
constexpr int kFirstInPlace = 13;

constexpr const char* kCompare[] = {"lt", "le", "eq", "ne", "gt", "ge"};

// A method of torch.Tensor as torch has it: that of the base class, which cannot be changed, while no other stands in
// its way.
struct TensorMethod {
  PyRef name;
  PyObject* own = nullptr;  // borrowed from torch's class

  explicit TensorMethod(const std::string& text) : name(PyRef::Steal(PyUnicode_InternFromString(text.c_str()))) {
    if (name) own = PyDict_GetItemWithError(Names().tensor_base->tp_dict, name.get());
    PyErr_Clear();
  }
  bool IsTorchs() const { return own != nullptr && _PyType_Lookup(Names().tensor, name.get()) == own; }
};

struct PlainOperator {
  std::optional<c10::OperatorHandle> op;
  TensorMethod method, reflected;
};

// By row of kBinary; the GIL guards it.
const std::optional<PlainOperator>& PlainOperatorOf(int row) {
  static const auto* operators = [] {
    auto* made = new std::vector<std::optional<PlainOperator>>;
    for (const BinaryRow& each : kBinary) {
      if (made->emplace_back(); each.op == nullptr) continue;
      made->back().emplace(FindOperator(each.op), TensorMethod(absl::StrCat("__", each.function, "__")),
                           TensorMethod(absl::StrCat("__r", each.function, "__")));
    }
    return made;
  }();
  return (*operators)[static_cast<size_t>(row)];
}

// A number that torch takes for one of its own types as it is; None where it would not, or would raise.
c10::IValue NumberOf(PyObject* object) {
  if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
  if (!PyLong_CheckExact(object)) return {};
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 ? c10::IValue(value) : c10::IValue();
}

// The result of an operator on plain tensors and numbers, recorded without torch's parser and dispatcher; null, with
// nothing done, where anything but these might have a say in it.
PyObject* ApplyPlainly(int row, PyObject* left, PyObject* right) {
  if (kBinary[row].op == nullptr || at::impl::PythonTorchFunctionTLS::stack_len() > 0) return nullptr;
  PyTypeObject* tensor_class = Names().tensor;
  const bool reflected = Py_TYPE(left) != tensor_class;
  PyObject *self = reflected ? right : left, *other = reflected ? left : right;
  if (Py_TYPE(self) != tensor_class || (reflected && !kBinary[row].reflects)) return nullptr;
  c10::IValue operand = Py_TYPE(other) == tensor_class ? c10::IValue(TensorOf(other)) : NumberOf(other);
  const std::optional<PlainOperator>& plain = PlainOperatorOf(row);
  if (operand.isNone() || !plain->op || !(reflected ? plain->reflected : plain->method).IsTorchs()) return nullptr;
  at::Tensor result = RecordPlainCall(*plain->op, TensorOf(self), operand);
  return result.defined() ? THPVariable_Wrap(std::move(result)) : nullptr;
}

bool HasContent(PyObject* object) { return !IsPrimitive(object) && !IsTensor(object); }

}  // namespace

// C objects from outside that are compared by something that no guard covers, such as datetime.date.
bool HasUnguardedContent(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  const WellKnown& n = Names();
  if (type->tp_richcompare == nullptr || type->tp_richcompare == PyBaseObject_Type.tp_richcompare) return false;
  if (IsCodeLike(object) || IsNativeValue(object) || IsNumPyArray(object) || PyTuple_Check(object) ||
      PyAnySet_Check(object) || PyList_Check(object) || PyDict_Check(object) || type == &PyRange_Type ||
      type == &PySlice_Type || type == n.size || type == n.device || type == n.deque || type == &PyMethod_Type ||
      PyWeakref_CheckRef(object) || type == n.mappingproxy) {
    return false;
  }
  if (!IsPythonClass(type)) return true;
  PyTypeObject* base = NativeBase(type);
  return base->tp_richcompare != nullptr && base->tp_richcompare == type->tp_richcompare &&
         base->tp_richcompare != PyBaseObject_Type.tp_richcompare;
}

PyObject* RecorderState::Impl::Binary(int op, PyObject* left, PyObject* right) {
  if (op < 0 || op >= static_cast<int>(std::size(kBinary)))
    return BreakNull(BreakCode::kUnsupportedOpcode, "BINARY_OP");
  const BinaryRow& row = kBinary[op];
  if (IsPrimitive(left) && IsPrimitive(right)) {
    if (SymbolOf(left) == kNoSymbol && SymbolOf(right) == kNoSymbol) return row.apply(left, right);
    return ComputeOperator(row.function, {left, right}, [&] { return row.apply(left, right); });
  }
  if (IsTensor(left) || IsTensor(right)) {
    PyObject* other = IsTensor(left) ? right : left;
    if (IsTensor(other) || IsPrimitive(other) || IsNumPyScalar(other) ||
        (IsNativeValue(other) && !PyUnicode_Check(other))) {
      const bool has_symbol = SymbolOf(left) != kNoSymbol || SymbolOf(right) != kNoSymbol;
      return CallOperator(row.function, {left, right}, [&] {
        PyObject* result = has_symbol ? nullptr : ApplyPlainly(op, left, right);
        return result != nullptr || PyErr_Occurred() ? result : row.apply(left, right);
      });
    }
  }
  if ((PyUnicode_Check(left) || PyBytes_Check(left)) && HasFake(right)) {
    return BreakNull(BreakCode::kTensorData, "a tensor is formatted");
  }
  if (PyUnicode_Check(left)) GuardPrinted(*this, right);
  // Items of what is put together only move.
  const auto is_sequence = [](PyObject* object) { return PyTuple_Check(object) || PyList_Check(object); };
  const bool moves = (op == 0 || op == kFirstInPlace) && is_sequence(left) && is_sequence(right);
  if (!moves) SpecialiseOperands({left, right});
  for (PyObject* operand : {left, right}) {
    if (!HasContent(operand)) continue;
    if (Prepare(operand) != 0) return nullptr;
    if (IsOutside(operand) && FindShadow(operand) == nullptr && !PyTuple_Check(operand) &&
        !IsPythonClass(Py_TYPE(operand)) && !PyType_Check(operand) && !PyFrozenSet_CheckExact(operand) &&
        !IsNumPyScalar(operand) && !IsNumPyArray(operand)) {
      return BreakNull(BreakCode::kUnsupportedObject, std::string("arithmetic on ") + Py_TYPE(operand)->tp_name);
    }
  }
  if (op >= kFirstInPlace) {
    if (Shadow* shadow = FindShadow(left)) Touch(*shadow);
  }
  PyObject* result = Scan(row.apply(left, right));
  return CheckFailure() != 0 ? (Py_XDECREF(result), nullptr) : result;
}

PyObject* RecorderState::Impl::Unary(UnaryOperator op, PyObject* object) {
  const char* function = nullptr;
  unaryfunc apply = nullptr;
  switch (op) {
    case UnaryOperator::kNot: {
      const int truth = IsTrue(object);
      return truth < 0 ? nullptr : Py_NewRef(truth ? Py_False : Py_True);
    }
    case UnaryOperator::kPositive:
      function = "pos", apply = PyNumber_Positive;
      break;
    case UnaryOperator::kNegative:
      function = "neg", apply = PyNumber_Negative;
      break;
    case UnaryOperator::kInvert:
      function = "invert", apply = PyNumber_Invert;
      break;
  }
  if (IsTensor(object)) return CallOperator(function, {object}, [&] { return apply(object); });
  if (SymbolOf(object) != kNoSymbol) return ComputeOperator(function, {object}, [&] { return apply(object); });
  SpecialiseOperands({object});
  if (HasContent(object)) {
    if (Prepare(object) != 0) return nullptr;
    if (IsOutside(object) && !IsPythonClass(Py_TYPE(object)) && !IsNumPyScalar(object) && !IsNumPyArray(object)) {
      return BreakNull(BreakCode::kUnsupportedObject, std::string("arithmetic on ") + Py_TYPE(object)->tp_name);
    }
  }
  return Scan(apply(object));
}

PyObject* RecorderState::Impl::RichCompare(PyObject* left, PyObject* right, int op) {
  const bool has_tensor = IsTensor(left) || IsTensor(right);
  if (AreNumbers(left, right))
    return ComputeOperator(kCompare[op], {left, right}, [&] { return PyObject_RichCompare(left, right, op); });
  if (IsPrimitive(left) && IsPrimitive(right)) return PyObject_RichCompare(left, right, op);
  if (has_tensor) {
    PyObject* other = IsTensor(left) ? right : left;
    if ((IsTensor(other) || IsPrimitive(other) || IsNumPyScalar(other)) && !PyUnicode_Check(other)) {
      return CallOperator(kCompare[op], {left, right}, [&] { return PyObject_RichCompare(left, right, op); });
    }
  }
  SpecialiseOperands({left, right});
  for (PyObject* operand : {left, right}) {
    if (!HasContent(operand)) continue;
    if (Prepare(operand) != 0) return nullptr;
    if (IsOutside(operand) && HasUnguardedContent(operand))
      return BreakNull(BreakCode::kUnsupportedObject, std::string("comparison of a ") + Py_TYPE(operand)->tp_name);
  }
  // The comparison that every object has is identity.
  if ((op == Py_EQ || op == Py_NE) && IsOutside(left) && IsOutside(right)) {
    if (Is(left, right) < 0) return nullptr;
  }
  PyObject* result = Scan(PyObject_RichCompare(left, right, op));
  return CheckFailure() != 0 ? (Py_XDECREF(result), nullptr) : result;
}

int RecorderState::Impl::Is(PyObject* left, PyObject* right) {
  if (left == right) return 1;
  if ((SymbolOf(left) != kNoSymbol || SymbolOf(right) != kNoSymbol) && Py_TYPE(left) == Py_TYPE(right)) {
    if (!PyLong_CheckExact(left) || SourceOfNumber(SymbolOf(left)) != kNoSource ||
        SourceOfNumber(SymbolOf(right)) != kNoSource)
      StayStatic("numbers are compared by identity");
    // Small ints are shared, which symbols are not.
    SpecialiseOperands({left, right});
    PyRef a = PyRef::Steal(PyLong_FromLongLong(PyLong_AsLongLong(left)));
    PyRef b = PyRef::Steal(PyLong_FromLongLong(PyLong_AsLongLong(right)));
    PyErr_Clear();
    return PyLong_CheckExact(left) && a && a.get() == b.get() ? 1 : 0;
  }
  if (IsPrimitive(left) || IsPrimitive(right)) return 0;
  if (IsTensor(left) && IsTensor(right)) CompareIdentity(left), CompareIdentity(right);
  Provenance* a = FindKnown(left);
  Provenance* b = FindKnown(right);
  if (a != nullptr && b != nullptr && !(a->pinned && b->pinned) && a->source != b->source &&
      Py_TYPE(left) == Py_TYPE(right)) {
    AddGuard(GuardKind::kNotSameObject, a->source, nullptr, 0, b->source);
  }
  return 0;
}

PyObject* RecorderState::Impl::Format(PyObject* value, int conversion, PyObject* spec) {
  SpecialiseOperands({value});
  if (!IsPrimitive(value)) {
    if (IsTensor(value) || HasFake(value)) return BreakNull(BreakCode::kTensorData, "a tensor is formatted");
    if (Prepare(value) != 0) return nullptr;
    GuardPrinted(*this, value);
    if (IsOutside(value) && FindShadow(value) == nullptr && !IsCodeLike(value) && !PyTuple_Check(value) &&
        !IsPythonClass(Py_TYPE(value))) {
      return BreakNull(BreakCode::kUnsupportedObject, std::string("formatting of ") + Py_TYPE(value)->tp_name);
    }
  }
  PyRef text;
  switch (conversion & 3) {
    case 1:
      text = PyRef::Steal(PyObject_Str(value));
      break;
    case 2:
      text = PyRef::Steal(PyObject_Repr(value));
      break;
    case 3:
      text = PyRef::Steal(PyObject_ASCII(value));
      break;
    default:
      text = PyRef::Borrow(value);
  }
  if (!text) return nullptr;
  if (PyUnicode_CheckExact(text.get()) && spec == nullptr) return text.release();
  return PyObject_Format(text.get(), spec);
}

}  // namespace framejit
