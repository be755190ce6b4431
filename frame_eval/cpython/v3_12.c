// CPython 3.12: private access behind shim.h. Mirrors 3.12.1.
// Py_BUILD_CORE comes before Python.h: the other order does not compile in C on 3.12 (gh-105268).
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#define NEED_OPCODE_TABLES
#include "internal/pycore_code.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_object.h"
#include "internal/pycore_opcode.h"

#include "frame_eval/cpython/monitoring.h"
#include "frame_eval/cpython/shim.h"

#if PY_MINOR_VERSION != 12
#error "v3_12.c is for CPython 3.12"
#endif

#define FRAME_CODE(f) ((f)->f_code)
#define FRAME_FUNCTION(f) ((PyFunctionObject*)(f)->f_funcobj)
#define FRAME_IP(f) ((f)->prev_instr)
#define FRAME_IP_BIAS 1
#define NEW_CODE PyUnstable_Code_NewWithPosOnlyArgs
#define NEW_CODE_EXTRA PyUnstable_Eval_RequestCodeExtraIndex
#define GET_CODE_EXTRA PyUnstable_Code_GetExtra
#define SET_CODE_EXTRA PyUnstable_Code_SetExtra

static ShimFrame* ThreadFrame(PyThreadState* thread) { return thread->cframe->current_frame; }

static int HasVersion(PyTypeObject* type) { return PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG); }

// Objects/dictobject.c, Include/internal/pycore_object.h: _PyObject_DictOrValuesPointer.
static PyDictValues* InlineValues(PyObject* object) {
  if (!PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_MANAGED_DICT)) return NULL;
  PyDictOrValues values = *_PyObject_DictOrValuesPointer(object);
  return _PyDictOrValues_IsValues(values) ? _PyDictOrValues_GetValues(values) : NULL;
}

static PyObject* ManagedDict(PyObject* object) {
  PyDictOrValues values = *_PyObject_DictOrValuesPointer(object);
  return _PyDictOrValues_IsValues(values) ? NULL : _PyDictOrValues_GetDict(values);
}

#include "frame_eval/cpython/shim_monitoring.inc"

// Objects/dictobject.c, _PyObject_MakeInstanceAttributesFromDict: the next attribute access frees an instance dict that
// shares the keys of its class and that nobody else refers to, and would have each call walk the guards again.
static int KeepsVersion(PyDictObject* dict) {
  if (dict->ma_values != NULL) GiveOwnTable(dict);
  return 1;
}

// Python/ceval.c, _PyEval_EvalFrameDefault: the lines before `start_frame`, and those of INTERPRETER_EXIT. The frame in
// between that it pushes for its trampoline is not needed.
void ShimEnterFrame(PyThreadState* thread, ShimFrame* frame, ShimEntry* entry) {
  entry->cframe.previous = thread->cframe;
  entry->cframe.current_frame = frame;
  frame->previous = thread->cframe->current_frame;
  thread->cframe = &entry->cframe;
}

void ShimLeaveFrame(PyThreadState* thread, ShimEntry* entry) { thread->cframe = entry->cframe.previous; }

// Include/cpython/longintrepr.h; the sign's bits are 1 - sign.
static void SetDigit(PyLongObject* number, unsigned magnitude, int sign) {
  const unsigned digits = sign == 0 ? 0 : 1;
  number->long_value.ob_digit[0] = magnitude;
  number->long_value.lv_tag = digits << _PyLong_NON_SIZE_BITS | (unsigned)(1 - sign);
}

#include "frame_eval/cpython/shim_common.inc"
