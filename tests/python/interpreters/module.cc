// framejit_check: a torch-free extension module that shows bytecode/ and frame_eval/cpython/ to the check scripts of
// this folder. Plain C API, so that it builds against any interpreter without installing anything. This half: bytecode.
#include "tests/python/interpreters/module.h"

#include <string>

#include "bytecode/cfg.h"
#include "bytecode/decode.h"
#include "bytecode/liveness.h"
#include "bytecode/print.h"
#include "bytecode/stack_depth.h"
#include "bytecode/verify.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

PyObject* RaiseStatus(const absl::Status& status) {
  PyErr_SetString(PyExc_ValueError, std::string(status.message()).c_str());
  return nullptr;
}

bool CheckIsCode(PyObject* object) {
  if (PyCode_Check(object)) return true;
  PyErr_SetString(PyExc_TypeError, "a code object is needed");
  return false;
}

bool AppendNew(PyObject* list, PyObject* item) {
  PyRef owned = PyRef::Steal(item);
  return owned && PyList_Append(list, owned.get()) == 0;
}

namespace {

const char* FlowName(ControlFlow flow) {
  switch (flow) {
    case ControlFlow::kNext:
      return "next";
    case ControlFlow::kJump:
      return "jump";
    case ControlFlow::kBranch:
      return "branch";
    case ControlFlow::kYield:
      return "yield";
    case ControlFlow::kReturn:
      return "return";
    case ControlFlow::kRaise:
      return "raise";
  }
  return "";
}

PyObject* OpcodeRows(PyObject*, PyObject*) {
  PyRef rows = PyRef::Steal(PyList_New(0));
  for (int number = 0; rows && number < 256; ++number) {
    if (!IsOpcode(static_cast<uint8_t>(number))) continue;
    const OpcodeInfo& info = InfoOf(static_cast<Opcode>(number));
    PyObject* row = Py_BuildValue("(sisisi)", info.name.data(), number, OperandKindName(info.operand).data(),
                                  int{info.caches}, FlowName(info.flow), int{info.raises});
    if (!AppendNew(rows.get(), row)) return nullptr;
  }
  return rows.release();
}

PyObject* StackEffectOfOpcode(PyObject*, PyObject* args) {
  int number, oparg, taken;
  if (!PyArg_ParseTuple(args, "iip", &number, &oparg, &taken)) return nullptr;
  const StackEffect effect = StackEffectOf(static_cast<Opcode>(number), oparg, taken != 0);
  return Py_BuildValue("(ii)", effect.pops, effect.pushes);
}

PyObject* Decode(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::StatusOr<DecodedCode> code = DecodedCode::Decode(reinterpret_cast<PyCodeObject*>(object));
  if (!code.ok()) return RaiseStatus(code.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int i = 0; list && i < code->size(); ++i) {
    const Instruction& instruction = (*code)[i];
    const int target = instruction.target < 0 ? -1 : (*code)[instruction.target].start;
    PyObject* item = Py_BuildValue("(iiiiii)", static_cast<int>(instruction.opcode), instruction.oparg,
                                   instruction.start, instruction.offset, instruction.end, target);
    if (!AppendNew(list.get(), item)) return nullptr;
  }
  return list.release();
}

PyObject* Spans(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  PyCodeObject* code = reinterpret_cast<PyCodeObject*>(object);
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int i = 0; list && i < decoded->size(); ++i) {
    const SourceSpan span = SpanOf(code, (*decoded)[i]);
    PyObject* item =
        Py_BuildValue("(iiiii)", LineOf(code, (*decoded)[i]), span.line, span.end_line, span.column, span.end_column);
    if (!AppendNew(list.get(), item)) return nullptr;
  }
  return list.release();
}

PyObject* ExceptionTable(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::StatusOr<DecodedCode> code = DecodedCode::Decode(reinterpret_cast<PyCodeObject*>(object));
  if (!code.ok()) return RaiseStatus(code.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (const ExceptionEntry& entry : code->exception_table()) {
    if (!list || !AppendNew(list.get(), Py_BuildValue("(iiiii)", entry.start, entry.end, entry.target, entry.depth,
                                                      int{entry.push_lasti}))) {
      return nullptr;
    }
  }
  return list.release();
}

// By code unit: (target, depth, lasti), or None.
PyObject* Handlers(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  PyCodeObject* code = reinterpret_cast<PyCodeObject*>(object);
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int unit = 0; list && unit < decoded->units(); ++unit) {
    std::optional<ExceptionHandler> handler = FindExceptionHandler(code, unit);
    const ExceptionEntry* entry = FindExceptionEntry(decoded->exception_table(), unit);
    if (handler.has_value() != (entry != nullptr) ||
        (entry != nullptr && (entry->target != handler->target || entry->depth != handler->depth ||
                              entry->push_lasti != handler->push_lasti))) {
      return RaiseStatus(absl::InternalError("the two handler look-ups disagree"));
    }
    PyObject* item = handler ? Py_BuildValue("(iii)", handler->target, handler->depth, int{handler->push_lasti})
                             : Py_NewRef(Py_None);
    if (!AppendNew(list.get(), item)) return nullptr;
  }
  return list.release();
}

PyObject* StackDepthsOf(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::StatusOr<DecodedCode> code = DecodedCode::Decode(reinterpret_cast<PyCodeObject*>(object));
  if (!code.ok()) return RaiseStatus(code.status());
  absl::StatusOr<StackDepths> depths = ComputeStackDepths(*code);
  if (!depths.ok()) return RaiseStatus(depths.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int depth : depths->before) {
    if (!list || !AppendNew(list.get(), PyLong_FromLong(depth))) return nullptr;
  }
  return list ? Py_BuildValue("(iN)", depths->max, list.release()) : nullptr;
}

PyObject* LiveSlots(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  PyCodeObject* code = reinterpret_cast<PyCodeObject*>(object);
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  const Cfg cfg(*decoded);
  const Liveness liveness(*decoded, cfg, code->co_nlocalsplus);
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int i = 0; list && i < decoded->size(); ++i) {
    PyRef slots = PyRef::Steal(PyList_New(0));
    for (int slot : liveness.SlotsLiveBefore(i)) {
      if (!slots || !AppendNew(slots.get(), PyLong_FromLong(slot))) return nullptr;
    }
    if (!AppendNew(list.get(), slots.release())) return nullptr;
  }
  return list.release();
}

PyObject* VerifyOf(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::Status status = VerifyCode(reinterpret_cast<PyCodeObject*>(object));
  if (status.ok()) Py_RETURN_NONE;
  return PyUnicode_FromString(std::string(status.message()).c_str());
}

PyObject* Print(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  PyCodeObject* code = reinterpret_cast<PyCodeObject*>(object);
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  return PyUnicode_FromString(PrintCode(*decoded, code).c_str());
}

PyMethodDef bytecode_methods[] = {
    {"opcode_rows", OpcodeRows, METH_NOARGS, "[(name, number, operand, caches, flow, raises)]"},
    {"stack_effect", StackEffectOfOpcode, METH_VARARGS, "(number, oparg, taken) -> (pops, pushes)"},
    {"decode", Decode, METH_O, "[(number, oparg, start, offset, end, target)], in code units"},
    {"spans", Spans, METH_O, "[(line by line table, line, end line, column, end column)] by instruction"},
    {"exception_table", ExceptionTable, METH_O, "[(start, end, target, depth, lasti)], in code units"},
    {"handlers", Handlers, METH_O, "[(target, depth, lasti) or None] by code unit"},
    {"stack_depths", StackDepthsOf, METH_O, "(largest, [depth before each instruction])"},
    {"live_slots", LiveSlots, METH_O, "[[slot]] by instruction"},
    {"verify", VerifyOf, METH_O, "None, or what is wrong"},
    {"print_code", Print, METH_O, "the textual form"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "framejit_check", nullptr, -1, bytecode_methods};

}  // namespace
}  // namespace framejit

PyMODINIT_FUNC PyInit_framejit_check() {
  PyObject* module = PyModule_Create(&framejit::module_definition);
  for (PyMethodDef* methods : {framejit::kObjectMethods, framejit::kRewriteMethods}) {
    if (module != nullptr && PyModule_AddFunctions(module, methods) < 0) Py_CLEAR(module);
  }
  return module;
}
