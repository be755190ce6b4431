// Operators, comparison, identity, formatting.
#include "graph/capture/printed.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {
namespace {

struct BinaryRow {
  const char* function;  // of module operator
  binaryfunc apply;
};

PyObject* Power(PyObject* a, PyObject* b) { return PyNumber_Power(a, b, Py_None); }
PyObject* InPlacePower(PyObject* a, PyObject* b) { return PyNumber_InPlacePower(a, b, Py_None); }

// In the order of the NB_* numbers of BINARY_OP (Include/opcode.h).
constexpr BinaryRow kBinary[] = {
    {"add", PyNumber_Add},
    {"and_", PyNumber_And},
    {"floordiv", PyNumber_FloorDivide},
    {"lshift", PyNumber_Lshift},
    {"matmul", PyNumber_MatrixMultiply},
    {"mul", PyNumber_Multiply},
    {"mod", PyNumber_Remainder},
    {"or_", PyNumber_Or},
    {"pow", Power},
    {"rshift", PyNumber_Rshift},
    {"sub", PyNumber_Subtract},
    {"truediv", PyNumber_TrueDivide},
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
      return CallOperator(row.function, {left, right}, [&] { return row.apply(left, right); });
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
