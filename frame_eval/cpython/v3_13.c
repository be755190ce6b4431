// CPython 3.13: private access behind shim.h. Mirrors 3.13.0.
// Py_BUILD_CORE comes before Python.h: the other order does not compile in C on 3.12 (gh-105268).
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#define NEED_OPCODE_METADATA
#include "internal/pycore_code.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_object.h"
#include "internal/pycore_opcode_metadata.h"

#include "frame_eval/cpython/monitoring.h"
#include "frame_eval/cpython/shim.h"

#if PY_MINOR_VERSION != 13
#error "v3_13.c is for CPython 3.13"
#endif

#define FRAME_CODE(f) ((PyCodeObject*)(f)->f_executable)
#define FRAME_FUNCTION(f) ((PyFunctionObject*)(f)->f_funcobj)
#define FRAME_IP(f) ((f)->instr_ptr)
#define FRAME_IP_BIAS 0
#define NEW_CODE PyUnstable_Code_NewWithPosOnlyArgs
#define NEW_CODE_EXTRA PyUnstable_Eval_RequestCodeExtraIndex
#define GET_CODE_EXTRA PyUnstable_Code_GetExtra
#define SET_CODE_EXTRA PyUnstable_Code_SetExtra

static ShimFrame* ThreadFrame(PyThreadState* thread) { return thread->current_frame; }

// Objects/typeobject.c: 3.13 no longer keeps Py_TPFLAGS_VALID_VERSION_TAG.
static int HasVersion(PyTypeObject* type) { return type->tp_version_tag != 0; }

// Include/internal/pycore_object.h: _PyObject_InlineValues. The values stay in use behind a materialised dict; here
// they count as inline values only until then, as in 3.11 and 3.12.
static PyDictValues* InlineValues(PyObject* object) {
  if (!PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_INLINE_VALUES)) return NULL;
  if (_PyObject_GetManagedDict(object) != NULL) return NULL;
  PyDictValues* values = _PyObject_InlineValues(object);
  return values->valid ? values : NULL;
}

static PyObject* ManagedDict(PyObject* object) { return (PyObject*)_PyObject_GetManagedDict(object); }

#include "frame_eval/cpython/shim_monitoring.inc"

// Objects/dictobject.c, store_instance_attr_lock_held: an attribute that is stored in the inline values behind a dict
// neither gives the dict a new version nor (in 3.13.0) notifies its watchers.
static int KeepsVersion(PyDictObject* dict) {
  if (dict->ma_values == NULL || !dict->ma_values->embedded) return 1;
  GiveOwnTable(dict);
  return dict->ma_values == NULL || !dict->ma_values->embedded;
}

// Python/ceval.c, _PyEval_EvalFrameDefault: the lines before `start_frame`, and those of INTERPRETER_EXIT. The frame in
// between that it pushes for its trampoline is not needed.
void ShimEnterFrame(PyThreadState* thread, ShimFrame* frame, ShimEntry* entry) {
  entry->previous = thread->current_frame;
  frame->previous = entry->previous;
  thread->current_frame = frame;
}

void ShimLeaveFrame(PyThreadState* thread, ShimEntry* entry) { thread->current_frame = entry->previous; }

// Include/cpython/longintrepr.h; the sign's bits are 1 - sign.
static void SetDigit(PyLongObject* number, unsigned magnitude, int sign) {
  const unsigned digits = sign == 0 ? 0 : 1;
  number->long_value.ob_digit[0] = magnitude;
  number->long_value.lv_tag = digits << _PyLong_NON_SIZE_BITS | (unsigned)(1 - sign);
}

#include "frame_eval/cpython/shim_common.inc"
