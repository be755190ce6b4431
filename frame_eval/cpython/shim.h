// The C ABI between framejit and the private parts of CPython: frames, thread state, the eval-frame function, opcode
// tables, instance dicts, type versions. Implemented once per minor (v3_11.c, v3_12.c, v3_13.c, sharing
// shim_common.inc); no other file of framejit includes CPython's internal headers.
//
// Unless a line says otherwise: the GIL is held, arguments are not null, references returned are borrowed, and nothing
// raises. Offsets are in code units (2 bytes) from the start of the code.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_SHIM_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_SHIM_H_

#include <Python.h>
#include <stdint.h>

#if PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x030E0000
#error "framejit knows the frames of CPython 3.11, 3.12 and 3.13 only"
#endif
#ifdef Py_GIL_DISABLED
#error "framejit needs a CPython with the GIL"
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct _PyInterpreterFrame;
typedef struct _PyInterpreterFrame ShimFrame;
// A code unit: _Py_CODEUNIT is this on 3.11, a union over it on 3.12, and private on 3.13.
typedef uint16_t ShimCodeUnit;

// --- frames ----------------------------------------------------------------------------------------------------------
PyCodeObject* ShimFrameCode(ShimFrame* frame);
PyFunctionObject* ShimFrameFunction(ShimFrame* frame);
PyObject* ShimFrameGlobals(ShimFrame* frame);
PyObject* ShimFrameBuiltins(ShimFrame* frame);
// The f_locals mapping of a class body or module; null in a function.
PyObject* ShimFrameLocals(ShimFrame* frame);
// The PyFrameObject, if somebody asked for one; null otherwise.
PyFrameObject* ShimFrameObject(ShimFrame* frame);
ShimFrame* ShimFramePrevious(ShimFrame* frame);
// Locals, cells and free variables (co_nlocalsplus slots), then the value stack.
PyObject** ShimFrameLocalsplus(ShimFrame* frame);
// The saved stack top, counted from localsplus; -1 (3.11, 3.12) or stale while the frame executes.
int ShimFrameStacktop(ShimFrame* frame);
void ShimFrameSetStacktop(ShimFrame* frame, int stacktop);
// The instruction that runs next when evaluation of the frame (re)starts.
int ShimFrameNextOffset(ShimFrame* frame);
void ShimFrameSetNextOffset(ShimFrame* frame, int offset);
// The instruction that f_lasti, tracebacks and line numbers are taken from.
int ShimFrameLasti(ShimFrame* frame);
// Where CPython keeps its instruction pointer, for an evaluator that writes it at each instruction. 3.11 and 3.12
// (prev_instr): the unit before the next instruction between instructions, the running instruction itself within one.
// 3.13 (instr_ptr): the running instruction, or the next one.
ShimCodeUnit** ShimFrameInstructionSlot(ShimFrame* frame);
// Whether no instruction of the frame ran yet.
int ShimFrameIsAtEntry(ShimFrame* frame);
// Whether a generator, coroutine or asynchronous generator owns the frame.
int ShimFrameIsGenerators(ShimFrame* frame);
// That object. Requires ShimFrameIsGenerators.
PyObject* ShimFrameGenerator(ShimFrame* frame);
// The frame inside a generator, coroutine or asynchronous generator.
ShimFrame* ShimGeneratorFrame(PyObject* generator);
// The innermost frame of the thread; may be null.
ShimFrame* ShimThreadFrame(PyThreadState* thread);

// --- evaluation ------------------------------------------------------------------------------------------------------
typedef PyObject* (*ShimEvaluator)(PyThreadState* thread, ShimFrame* frame, int throwflag);

// CPython's own evaluator.
PyObject* ShimEvalDefault(PyThreadState* thread, ShimFrame* frame, int throwflag);
// For an installed evaluator that has nothing to do with the frame: goes on to `previous`, the one it replaced. With an
// evaluator installed each Python call is a C call, so from 3.12 on C recursion would run out long before the recursion
// limit; this gives it back, up to a depth that fits the default C stack.
PyObject* ShimEvalPassThrough(ShimEvaluator previous, PyThreadState* thread, ShimFrame* frame, int throwflag);
// Adds to what is left of the thread's C recursion counter; 3.11 has none.
void ShimAddCRecursion(PyThreadState* thread, int units);
// How many more Python frames the recursion limit lets the thread enter.
int ShimRecursionRemaining(PyThreadState* thread);
// Makes `evaluator` the interpreter's eval-frame function and returns the one it replaces, which it must chain to;
// null if `evaluator` is installed already.
ShimEvaluator ShimInstallEvaluator(PyInterpreterState* interpreter, ShimEvaluator evaluator);
// Puts `previous` back if `evaluator` is still the installed one, else changes nothing; returns whether it did.
int ShimRemoveEvaluator(PyInterpreterState* interpreter, ShimEvaluator evaluator, ShimEvaluator previous);
ShimEvaluator ShimInstalledEvaluator(PyInterpreterState* interpreter);
// Whether a trace, profile or monitoring tool would see events of `code` in this thread.
int ShimIsTraced(PyThreadState* thread, PyCodeObject* code);
// Whether opcodes of `code` may stand for others because a tool sees events of it, or saw them before.
int ShimIsInstrumented(PyCodeObject* code);

// What _PyEval_EvalFrameDefault does with the thread when it starts on a frame and when it leaves it, for an evaluator
// of our own. The entry lives on the C stack of that evaluator; Leave follows Enter on every path, in the same
// function, and comes before the frame is handed on to CPython's own evaluator.
typedef struct {
#if PY_VERSION_HEX < 0x030D0000
  _PyCFrame cframe;
#else
  ShimFrame* previous;
#endif
} ShimEntry;
void ShimEnterFrame(PyThreadState* thread, ShimFrame* frame, ShimEntry* entry);
void ShimLeaveFrame(PyThreadState* thread, ShimEntry* entry);
// The end of an evaluator of our own that leaves `frame` with the exception that is set: from 3.12 on the evaluator
// frees the frame, which CPython's own does here; before, its caller does. Returns null. Requires the saved stack top
// to be right and no handler in the code for the instruction before `next_offset` (there is none before instruction 0).
// The exception stays as it is, its traceback included.
PyObject* ShimLeaveWithError(PyThreadState* thread, ShimFrame* frame, int next_offset);
// The same for a frame at its entry that is left with `result`, whose reference it takes. Returns what the evaluator is
// to return.
PyObject* ShimLeaveWithResult(PyThreadState* thread, ShimFrame* frame, PyObject* result);

// --- handled exceptions (sys.exc_info) -------------------------------------------------------------------------------
// Where the exception being handled by this frame or generator is kept: owned by the slot; null or None when there is
// none.
PyObject** ShimHandledExceptionSlot(PyThreadState* thread);
// The exception a bare `raise` re-raises: the innermost handled one of the whole thread; null when there is none.
PyObject* ShimTopmostHandledException(PyThreadState* thread);

// --- opcode tables of the running interpreter, 256 entries each ------------------------------------------------------
// The generic opcode that a specialised one stands for; 0 for numbers that are no opcode.
extern const uint8_t* const kShimDeopt;
// Inline-cache units that follow an opcode.
extern const uint8_t* const kShimCaches;
// Whether the compiler puts all of a generator into a handler of its own, which makes RuntimeError of StopIteration.
extern const int kShimGeneratorsHaveHandler;

// What slot `index` of localsplus holds: any of these. Requires index < co_nlocalsplus.
enum { kShimLocal = 1, kShimCell = 2, kShimFree = 4 };
int ShimLocalKind(PyCodeObject* code, int index);

// --- code objects ----------------------------------------------------------------------------------------------------
// What a code object is made from, as in the constructor `types.CodeType`; references are borrowed.
typedef struct {
  int argcount, posonlyargcount, kwonlyargcount, stacksize, flags, firstlineno;
  PyObject *code, *consts, *names, *varnames, *freevars, *cellvars, *filename, *name, *qualname;
  PyObject *linetable, *exceptiontable;
} ShimCodeParts;
// New reference; null with an exception. CPython does not look at the instructions.
PyCodeObject* ShimNewCode(const ShimCodeParts* parts);
// What a tool keeps with code objects (PEP 523): the index of a new kind of it, -1 without an exception where there is
// none left. `free` gets it when the code object goes.
Py_ssize_t ShimNewCodeExtra(freefunc free);
// Null where the code has none.
void* ShimCodeExtra(PyCodeObject* code, Py_ssize_t index);
// 0, or -1 with an exception. Once for each code and index: CPython frees what was there, be it the same.
int ShimSetCodeExtra(PyCodeObject* code, Py_ssize_t index, void* extra);

// --- objects ---------------------------------------------------------------------------------------------------------
// Where the dict's version is kept: it changes with every change of the dict and is unique over all dicts of the
// process. Null where CPython does not keep one for this dict. From 3.12 on an instance dict is given a table of its
// own first (see KeepsVersion in v3_12.c and v3_13.c), which nobody sees but who measures.
const uint64_t* ShimDictVersionSlot(PyObject* dict);
// What it says now; a number that was never given out before where there is none.
uint64_t ShimDictVersion(PyObject* dict);
// The type's version tag, assigned now if it has none; 0 when it cannot have one. A tag names one state of the type and
// of its bases, and is never used twice.
unsigned int ShimTypeVersion(PyTypeObject* type);
// The same without assigning.
unsigned int ShimTypeCurrentVersion(PyTypeObject* type);
// Changes reported by CPython, from 3.12 on. The functions that make a watcher return its id; -1 where there is none.
// `changed` must not raise. The watcher of dicts says that a watched dict will change, or is `gone`; the one of types
// that a watched type which has a version changes.
int ShimNewDictWatcher(void (*changed)(PyObject* dict, int gone));
int ShimNewTypeWatcher(void (*changed)(PyObject* type));
// 0, or -1 with an exception. Watching what is watched already is no error.
int ShimWatchDict(int id, PyObject* dict);
int ShimUnwatchDict(int id, PyObject* dict);  // not while a change of it is reported
int ShimWatchType(int id, PyObject* type);
// The attribute of `type` along its MRO; null without an exception when absent. `name` is an exact str.
PyObject* ShimTypeLookup(PyTypeObject* type, PyObject* name);
// The dict of the type's own attributes (tp_dict is no longer it for builtin types from 3.12 on). New reference; may be
// null.
PyObject* ShimTypeDict(PyTypeObject* type);
// As LOAD_METHOD: 1 and an unbound function in *method, or 0 and a bound attribute, or 0 and null with an exception.
// New reference. Runs user code like any attribute access.
int ShimGetMethod(PyObject* object, PyObject* name, PyObject** method);
// Whether the attributes of `object` live in inline values, no dict having been made yet.
int ShimHasInlineValues(PyObject* object);
// The inline value of `name` (an exact str); null without an exception when absent or when there are no inline values.
PyObject* ShimInlineValue(PyObject* object, PyObject* name);
// The instance dict if there is one; null when the object has none (yet). Changes nothing.
PyObject* ShimInstanceDict(PyObject* object);
// The instance dict, made now if need be. New reference; null with an exception when the object cannot have one.
PyObject* ShimMaterializeInstanceDict(PyObject* object);

// As if the __del__ of `object` (or close() of a generator) had run: CPython will not run it (again).
void ShimMarkFinalized(PyObject* object);
// An int of this value that is no other object: a new reference, or null with an exception set.
PyObject* ShimNewInt(long long value);

// --- exported by CPython, but not declared in the headers of every minor ---------------------------------------------
// dict(other) into `dict`: override_mode 0 keeps, 1 replaces, 2 raises KeyError on keys that are there.
int _PyDict_MergeEx(PyObject* dict, PyObject* other, int override_mode);
int _PySet_NextEntry(PyObject* set, Py_ssize_t* position, PyObject** key, Py_hash_t* hash);
int _PySet_Update(PyObject* set, PyObject* iterable);
// What the StopIteration that is set (or not) says; -1 where another exception is set.
int _PyGen_FetchStopIterationValue(PyObject** value);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_SHIM_H_
