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

#include "frame_eval/cpython/shim.h"

#if PY_MINOR_VERSION != 12
#error "v3_12.c is for CPython 3.12"
#endif

#define FRAME_CODE(f) ((f)->f_code)
#define FRAME_FUNCTION(f) ((PyFunctionObject*)(f)->f_funcobj)
#define FRAME_IP(f) ((f)->prev_instr)
#define FRAME_IP_BIAS 1
#define NEW_CODE PyUnstable_Code_NewWithPosOnlyArgs

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

#include "frame_eval/cpython/shim_common.inc"
