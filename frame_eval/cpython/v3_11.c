// CPython 3.11: private access behind shim.h. Mirrors 3.11.7.
// Py_BUILD_CORE comes before Python.h: the other order does not compile in C on 3.12 (gh-105268).
#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>
#define NEED_OPCODE_TABLES
#include "frame_eval/cpython/monitoring.h"
#include "frame_eval/cpython/shim.h"
#include "internal/pycore_code.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_object.h"
#include "internal/pycore_opcode.h"

#if PY_MINOR_VERSION != 11
#error "v3_11.c is for CPython 3.11"
#endif

#define FRAME_CODE(f) ((f)->f_code)
#define FRAME_FUNCTION(f) ((f)->f_func)
#define FRAME_IP(f) ((f)->prev_instr)
#define FRAME_IP_BIAS 1
#define NEW_CODE PyCode_NewWithPosOnlyArgs
#define NEW_CODE_EXTRA _PyEval_RequestCodeExtraIndex
#define GET_CODE_EXTRA _PyCode_GetExtra
#define SET_CODE_EXTRA _PyCode_SetExtra

static ShimFrame* ThreadFrame(PyThreadState* thread) { return thread->cframe->current_frame; }

static int IsTraced(PyThreadState* thread, PyCodeObject* code) {
  (void)code;
  return thread->cframe->use_tracing != 0;
}

const int kShimGeneratorsHaveHandler = 0;

int ShimIsInstrumented(PyCodeObject* code) {
  (void)code;
  return 0;
}

int ShimNewDictWatcher(void (*changed)(PyObject* dict, int gone)) {
  (void)changed;
  return -1;
}
int ShimNewTypeWatcher(void (*changed)(PyObject* type)) {
  (void)changed;
  return -1;
}
int ShimWatchDict(int id, PyObject* dict) {
  (void)id, (void)dict;
  return 0;
}
int ShimUnwatchDict(int id, PyObject* dict) { return ShimWatchDict(id, dict); }
int ShimWatchType(int id, PyObject* type) { return ShimWatchDict(id, type); }

int ShimToolInUse(void) { return 0; }
int ShimIsMonitored(PyCodeObject* code) {
  (void)code;
  return 0;
}
void* const* ShimMonitoringSlot(PyCodeObject* code) {
  (void)code;
  return NULL;
}

void ShimAddCRecursion(PyThreadState* thread, int units) {
  (void)thread;
  (void)units;
}

int ShimRecursionRemaining(PyThreadState* thread) { return thread->recursion_remaining; }

static PyObject* PassThrough(ShimEvaluator previous, PyThreadState* thread, ShimFrame* frame, int throwflag) {
  return previous(thread, frame, throwflag);
}

PyObject* ShimTypeDict(PyTypeObject* type) { return Py_XNewRef(type->tp_dict); }

static int HasVersion(PyTypeObject* type) { return PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG); }

// Objects/typeobject.c: assign_version_tag is static, but _PyType_Lookup of a short interned name calls it on a miss,
// and a type without a valid tag always misses the method cache.
static void AssignVersion(PyTypeObject* type) {
  PyObject* name = PyUnicode_InternFromString("__class__");
  if (name == NULL) {
    PyErr_Clear();
    return;
  }
  _PyType_Lookup(type, name);
  Py_DECREF(name);
}

static PyDictValues* InlineValues(PyObject* object) {
  if (!PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_MANAGED_DICT)) return NULL;
  return *_PyObject_ValuesPointer(object);
}

static PyObject* ManagedDict(PyObject* object) { return *_PyObject_ManagedDictPointer(object); }

static int KeepsVersion(PyDictObject* dict) {
  (void)dict;
  return 1;
}

// Python/ceval.c, _PyEval_EvalFrameDefault: the lines before `start_frame`, and at `exit_unwind`.
void ShimEnterFrame(PyThreadState* thread, ShimFrame* frame, ShimEntry* entry) {
  _PyCFrame* previous = thread->cframe;
  entry->cframe.use_tracing = previous->use_tracing;
  entry->cframe.previous = previous;
  thread->cframe = &entry->cframe;
  frame->is_entry = true;
  frame->previous = previous->current_frame;
  entry->cframe.current_frame = frame;
}

void ShimLeaveFrame(PyThreadState* thread, ShimEntry* entry) {
  thread->cframe = entry->cframe.previous;
  thread->cframe->use_tracing = entry->cframe.use_tracing;
}

// The caller of the evaluator frees the frame.
PyObject* ShimLeaveWithError(PyThreadState* thread, ShimFrame* frame, int next_offset) {
  (void)thread, (void)frame, (void)next_offset;
  return NULL;
}

PyObject* ShimLeaveWithResult(PyThreadState* thread, ShimFrame* frame, PyObject* result) {
  (void)thread, (void)frame;
  return result;
}

// Include/cpython/longintrepr.h.
static void SetDigit(PyLongObject* number, unsigned magnitude, int sign) {
  number->ob_digit[0] = magnitude;
  Py_SET_SIZE(number, sign);
}

#include "frame_eval/cpython/shim_common.inc"
