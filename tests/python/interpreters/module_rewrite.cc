// framejit_check, the part about encoding and rewriting. A re-entry hook made here shows its frame to a Python
// callable.
#include <string>
#include <utility>
#include <vector>

#include "bytecode/decode.h"
#include "bytecode/encode.h"
#include "bytecode/parse.h"
#include "bytecode/reentry.h"
#include "bytecode/rewrite.h"
#include "frame_eval/cpython/frame_view.h"
#include "frame_eval/cpython/py_ref.h"
#include "tests/python/interpreters/module.h"

namespace framejit {
namespace {

PyCodeObject* AsCode(PyObject* object) { return reinterpret_cast<PyCodeObject*>(object); }

PyObject* Result(absl::StatusOr<PyRef> made) { return made.ok() ? made->release() : RaiseStatus(made.status()); }

// The object itself stands for NULL, or an unbound variable, where frames are shown.
PyObject* null_stand_in = nullptr;

PyObject* RoundTrip(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(AsCode(object));
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  absl::StatusOr<Assembly> assembly = Disassemble(*decoded, AsCode(object));
  if (!assembly.ok()) return RaiseStatus(assembly.status());
  return Result(BuildCode(*assembly, AsCode(object), CodeHeader::Of(AsCode(object))));
}

PyObject* Parse(PyObject*, PyObject* text) {
  const char* utf8 = PyUnicode_AsUTF8(text);
  return utf8 != nullptr ? Result(ParseCode(utf8)) : nullptr;
}

// By instruction: (name of the refusal, depth, saved positions).
PyObject* ReentryFacts(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(AsCode(object));
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(*decoded);
  if (!reentries.ok()) return RaiseStatus(reentries.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int i = 0; list && i < decoded->size(); ++i) {
    PyRef saved = PyRef::Steal(PyList_New(0));
    if (reentries->CanEnter(i)) {
      for (int position : reentries->SavedAt(i)) {
        if (!saved || !AppendNew(saved.get(), PyLong_FromLong(position))) return nullptr;
      }
    }
    const std::string name(ReentryRefusalName(reentries->Refusal(i)));
    PyObject* row = saved ? Py_BuildValue("(siN)", name.c_str(), reentries->DepthAt(i), saved.release()) : nullptr;
    if (!AppendNew(list.get(), row)) return nullptr;
  }
  return list.release();
}

PyObject* IndexList(const std::vector<int>& indices) {
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int index : indices) {
    if (!list || !AppendNew(list.get(), PyLong_FromLong(index))) return nullptr;
  }
  return list.release();
}

// By instruction: (successors, the first legal re-entries after it).
PyObject* SuccessorsOf(PyObject*, PyObject* object) {
  if (!CheckIsCode(object)) return nullptr;
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(AsCode(object));
  if (!decoded.ok()) return RaiseStatus(decoded.status());
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(*decoded);
  if (!reentries.ok()) return RaiseStatus(reentries.status());
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int i = 0; list && i < decoded->size(); ++i) {
    PyObject* row = Py_BuildValue("(NN)", IndexList(Successors(*decoded, i)), IndexList(reentries->LegalAfter(i)));
    if (!AppendNew(list.get(), row)) return nullptr;
  }
  return list.release();
}

PyObject* ShowSlots(PyObject** slots, int count) {
  PyRef list = PyRef::Steal(PyList_New(0));
  for (int i = 0; list && i < count; ++i) {
    if (PyList_Append(list.get(), slots[i] != nullptr ? slots[i] : null_stand_in) < 0) return nullptr;
  }
  return list.release();
}

// self: (callable, index, stack depth, slot shift) -> callable(index, localsplus, stack, handled exception)
PyObject* ShowFrame(PyObject* self, PyObject*) {
  PyObject *callable, *index;
  int depth, shift;
  if (!PyArg_ParseTuple(self, "OOii", &callable, &index, &depth, &shift)) return nullptr;
  PyThreadState* thread = PyThreadState_Get();
  FrameView frame(ShimThreadFrame(thread));
  PyObject* handled = *ShimHandledExceptionSlot(thread);
  PyRef locals = PyRef::Steal(ShowSlots(frame.localsplus() + shift, frame.code()->co_nlocalsplus - shift));
  PyRef stack = PyRef::Steal(ShowSlots(frame.stack_base(), depth));
  if (!locals || !stack) return nullptr;
  return PyObject_CallFunction(callable, "OOOO", index, locals.get(), stack.get(),
                               handled != nullptr ? handled : Py_None);
}
PyMethodDef show_frame = {"show_frame", ShowFrame, METH_NOARGS, nullptr};

PyObject* ReturnNone(PyObject*, PyObject*) { Py_RETURN_NONE; }
PyMethodDef return_none = {"return_none", ReturnNone, METH_NOARGS, nullptr};

// The hook at `index`: `callable` None: one that returns None.
PyRef MakeHook(PyObject* callable, int index, int depth, int shift) {
  if (callable == Py_None) return PyRef::Steal(PyCFunction_New(&return_none, nullptr));
  PyRef self = PyRef::Steal(Py_BuildValue("(Oiii)", callable, index, depth, shift));
  return self ? PyRef::Steal(PyCFunction_New(&show_frame, self.get())) : PyRef();
}

// At `targets`, or at every legal instruction if that is None. False with an exception.
bool MakePoints(PyCodeObject* code, PyObject* targets, PyObject* callable, int shift,
                std::vector<ReentryPoint>& points) {
  absl::StatusOr<DecodedCode> decoded = DecodedCode::Decode(code);
  if (!decoded.ok()) return RaiseStatus(decoded.status()) != nullptr;
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(*decoded);
  if (!reentries.ok()) return RaiseStatus(reentries.status()) != nullptr;
  std::vector<int> indices = reentries->Legal();
  if (targets != Py_None) {
    indices.clear();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(targets); ++i) {
      indices.push_back(PyLong_AsLong(PyList_GET_ITEM(targets, i)));
    }
  }
  for (int index : indices) {
    const int depth = index >= 0 && index < decoded->size() ? reentries->DepthAt(index) : -1;
    points.push_back({index, MakeHook(callable, index, depth, shift)});
  }
  return !PyErr_Occurred();
}

PyObject* WithReentries(PyObject*, PyObject* args) {
  PyObject *code, *targets, *callable;
  if (!PyArg_ParseTuple(args, "OOO", &code, &targets, &callable) || !CheckIsCode(code)) return nullptr;
  std::vector<ReentryPoint> points;
  const int shift = AsCode(code)->co_nlocalsplus == 0 ? 1 : 0;
  if (!MakePoints(AsCode(code), targets, callable, shift, points)) return nullptr;
  PyObject* made = Result(MakeWithReentries(AsCode(code), points));
  if (made != nullptr && SlotShift(AsCode(code), AsCode(made)) != shift) {
    Py_DECREF(made);
    return RaiseStatus(absl::InternalError("another slot shift"));
  }
  return made;
}

// (code, target, slots, stack flags, call or -1, drop result, marker, re-entry targets, their callable)
PyObject* EnterAtCode(PyObject*, PyObject* args) {
  PyObject *code, *slots, *stack, *marker, *targets, *callable;
  EnterAt enter;
  int drop_result;
  if (!PyArg_ParseTuple(args, "OiO!O!ipOO!O", &code, &enter.target, &PyList_Type, &slots, &PyList_Type, &stack,
                        &enter.call, &drop_result, &marker, &PyList_Type, &targets, &callable) ||
      !CheckIsCode(code)) {
    return nullptr;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(slots); ++i) {
    enter.locals.push_back(static_cast<int>(PyLong_AsLong(PyList_GET_ITEM(slots, i))));
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(stack); ++i) {
    enter.stack.push_back(PyObject_IsTrue(PyList_GET_ITEM(stack, i)) == 1);
  }
  if (PyErr_Occurred()) return nullptr;
  enter.inner_call = enter.call >= 0;
  enter.drop_result = drop_result != 0;
  enter.marker = PyRef::Borrow(marker);
  const int shift = AsCode(code)->co_nlocals == 0 ? 1 : 0;
  if (!MakePoints(AsCode(code), targets, callable, shift, enter.reentries)) return nullptr;
  return Result(MakeEnterAt(AsCode(code), enter));
}

PyObject* StateHasExceptionAt(PyObject*, PyObject* args) {
  PyObject* code;
  int target;
  if (!PyArg_ParseTuple(args, "Oi", &code, &target) || !CheckIsCode(code)) return nullptr;
  absl::StatusOr<bool> has = StateHasException(AsCode(code), target);
  return has.ok() ? PyBool_FromLong(*has) : RaiseStatus(has.status());
}

PyObject* SetNull(PyObject*, PyObject* object) {
  Py_XSETREF(null_stand_in, Py_NewRef(object));
  Py_RETURN_NONE;
}

}  // namespace

PyMethodDef kRewriteMethods[] = {
    {"round_trip", RoundTrip, METH_O, "the code object, decoded and encoded again"},
    {"parse_code", Parse, METH_O, "the code object of a printed form"},
    {"reentry_facts", ReentryFacts, METH_O, "[(refusal, depth, [saved position])] by instruction"},
    {"successors", SuccessorsOf, METH_O, "[([successor], [first legal re-entry])] by instruction"},
    {"with_reentries", WithReentries, METH_VARARGS, "(code, targets or None: all, callable or None) -> code"},
    {"enter_at", EnterAtCode, METH_VARARGS,
     "(code, target, slots, stack flags, call or -1, drop result, marker, re-entry targets, callable) -> code"},
    {"state_has_exception", StateHasExceptionAt, METH_VARARGS, "(code, target)"},
    {"set_null", SetNull, METH_O, "the object that stands for NULL in what hooks are shown"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace framejit
