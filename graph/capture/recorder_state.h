// RecorderState: everything one recording knows, and the protocol functions through which it touches Python objects.
//
// The evaluator (graph/capture/evaluator.h) executes bytecode and calls only these functions for anything that could
// read, write or call an object. They are named after CPython's abstract object API and share its conventions: a new
// reference or 0 on success; null or -1 with a Python exception set, or with broken() true, otherwise. After any
// failure the caller looks at broken() first: a break is recorder state, never an exception that the program could
// catch, so a function that breaks sets both broken() and a SystemError that no handler gets to see.
//
// Words: an *outside* object existed before the recording; a *local* one was made by it. A *shadow* is the local copy
// that stands for an outside container; its elements are lifted when they are read. *Lifted*: what the program sees in
// place of an outside object (the fake of a tensor, the shadow of a container, the object itself otherwise).
#ifndef FRAMEJIT_GRAPH_CAPTURE_RECORDER_STATE_H_
#define FRAMEJIT_GRAPH_CAPTURE_RECORDER_STATE_H_

#include <Python.h>

#include <memory>
#include <string>
#include <vector>

#include "frame_eval/cpython/py_ref.h"
#include "graph/capture/recorder.h"
#include "graph/fake/fake_session.h"

namespace framejit {

enum class UnaryOperator { kPositive, kNegative, kInvert, kNot };

// What the recording knows of a frame that is being evaluated. The evaluator owns it, and keeps it up to date.
struct LiveFrame {
  PyCodeObject* code;
  PyObject* globals;
  PyObject** locals;  // of `code`, which is not the frame's own code where it was entered in the middle
  PyObject** stack_base;
  PyObject*** stack_top;
  int offset = 0;           // of the instruction being executed
  int64_t instruction = 0;  // its number
  // What the frame returns is what the calling instruction of the frame below pushes.
  bool is_direct = false;
  // The recorder called the frame, or resumed it, and takes what it gives. Else C code does, which may compute with it.
  bool is_own_call = false;
};

class RecorderState {
 public:
  explicit RecorderState(const RecordRequest& request);
  ~RecorderState();

  // --- breaks -------------------------------------------------------------------------------------------------------
  // The first break wins. The evaluator keeps the user's stack up to date through PushFrame, PopFrame and SetLine.
  void Break(BreakCode code, std::string detail);
  bool broken() const;
  // The recording is over, and what it made dies: nothing of the program is to run any more.
  bool dropping() const;
  void PushFrame(LiveFrame* frame);
  void PopFrame();
  // Before each instruction; `offset` in code units. False: the recording ends here, broken() is true.
  bool BeginInstruction(int offset);
  // What the frame gives (a result, or what a generator yields) to who called it.
  void GiveResult(const LiveFrame& frame, PyObject* value);
  // The generator that is resumed next gives what it yields to the recorder.
  void ResumeGenerator();
  // The object is hashed and compared: numbers in it that vary are fixed.
  void UseAsKey(PyObject* object);
  // The frame that starts next is no direct call.
  void ForgetDirectCall();
  // The exception that is set was raised by the current instruction or by what it called; the exception goes to a
  // handler.
  void NoteRaise();
  void NoteCaught(PyObject* exception);
  // Whether the recording caught the exception. Raising any other again would write to an object from outside.
  bool HasCaught(PyObject* exception) const;
  bool IsOutside(PyObject* object);

  // --- frames that are entered in the middle -------------------------------------------------------------------------
  // Null for code of the user's.
  const ResumedCode* ResumedCodeOf(PyCodeObject* code) const;
  const CodeAnalysis* Analyze(PyCodeObject* code);
  // Unpacks `state` (stolen) into the frame. Returns 0, or -1 as a protocol function does.
  int EnterResumed(const ResumePoint& point, PyObject* state, LiveFrame& frame);
  // Calls the inner frame that the point's frame waits for, with the state that the outer one was given.
  PyObject* CallInner(const ResumePoint& point, PyObject* state);
  // An unread value is read: lifts it in place.
  int Read(PyObject** place);
  // The items of an unread tuple of this size, unread, first on top; 0: it is none.
  int UnpackUnread(PyObject* unread, int size, PyObject*** stack_top);

  // --- the lift barrier ---------------------------------------------------------------------------------------------
  // What the program sees for `value` (stolen) read from `source`; leaves the guards.
  PyObject* Lift(PyObject* value, SourceId source);
  // The same for something that cannot change while a guard already left holds (found through a versioned type, ...).
  PyObject* LiftPinned(PyObject* value, SourceId source);
  SourceTable& sources();
  // Objects that reach a frame from C or from defaults, not through an instruction: known ones become their lifted
  // form, defaults of `function` get their source, anything else that would leak breaks. In place over `slots`.
  int LiftFrameArguments(PyFunctionObject* function, PyObject** slots);
  // The entry frame: parameter slots from the request.
  int LiftEntryArguments(PyFunctionObject* function, PyObject** slots);

  // --- protocol functions -------------------------------------------------------------------------------------------
  PyObject* GetAttr(PyObject* object, PyObject* name);
  // As CPython's LOAD_METHOD: returns 1 and an unbound method in *method, 0 and a bound attribute, or -1.
  int GetMethod(PyObject* object, PyObject* name, PyObject** method);
  int SetAttr(PyObject* object, PyObject* name, PyObject* value);  // null deletes
  PyObject* GetItem(PyObject* container, PyObject* key);
  int SetItem(PyObject* container, PyObject* key, PyObject* value);
  int DelItem(PyObject* container, PyObject* key);
  int IsTrue(PyObject* object);
  int Contains(PyObject* container, PyObject* value);
  Py_ssize_t Length(PyObject* object);
  PyObject* GetIter(PyObject* object);
  PyObject* IterNext(PyObject* iterator);  // null at the end, as tp_iternext: with a StopIteration or without
  PyObject* Binary(int binary_op_oparg, PyObject* left, PyObject* right);  // NB_* numbers of BINARY_OP
  PyObject* Unary(UnaryOperator op, PyObject* object);
  PyObject* RichCompare(PyObject* left, PyObject* right, int op);
  int Is(PyObject* left, PyObject* right);
  PyObject* Call(PyObject* callable, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* Format(PyObject* value, int conversion, PyObject* spec);  // FORMAT_VALUE: conversion as in its oparg
  PyObject* ImportName(PyObject* name, PyObject* globals, PyObject* fromlist, PyObject* level);
  PyObject* LookupSpecial(PyObject* object,
                          PyObject* name);  // bound special method found on the type; null, no error: absent
  // A sequence as an exact tuple whose items are lifted (argument unpacking, UNPACK_SEQUENCE).
  PyObject* AsTuple(PyObject* sequence);

  // --- names --------------------------------------------------------------------------------------------------------
  PyObject* LoadGlobal(PyObject* globals, PyObject* builtins, PyObject* name);
  int StoreGlobal(PyObject* globals, PyObject* name, PyObject* value);  // null deletes
  // A cell of the frame: made by it (MAKE_CELL, NewLocalCell) or belonging to `function`'s closure at `index`.
  PyObject* LoadCell(PyObject* cell, PyFunctionObject* function, int index);              // null, no error: empty
  int StoreCell(PyObject* cell, PyFunctionObject* function, int index, PyObject* value);  // null empties
  void NewLocalCell(PyObject* cell);
  // An object that the recording made (MAKE_FUNCTION, BUILD_*, generators): it is local from now on.
  void NewLocal(PyObject* object);

  // The container, which the frame is building on its stack, is about to be extended. A state may have brought it.
  void ExtendBuilt(PyObject* container);

  // --- before an object is handed to C code that reads it, and after C code returned one -----------------------------
  int PrepareForC(PyObject* object);
  PyObject* Scan(PyObject* result);  // steals; replaces what leaked, or breaks

  // --- the end ------------------------------------------------------------------------------------------------------
  // Result of the entry frame (stolen; null: the program raised, which becomes a Raised break). Fills everything of the
  // recording but the statistics the evaluator keeps.
  std::unique_ptr<Recording> Finish(PyObject* result);

  FakeSession& session();
  RecordStats stats;
  const int64_t max_instructions;
  const int max_depth;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The recording of this thread, or null. Set by Record() alone.
RecorderState* CurrentRecorder();

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RECORDER_STATE_H_
