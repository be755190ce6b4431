// Entry: the callable that framejit.compile returns for a Python function. It binds the call, looks for a trace whose
// guards hold, and runs it; a call that no trace covers is recorded. Everything that cannot be captured, and every
// failure of ours, ends in a plain call of the function.
#ifndef FRAMEJIT_FRAME_EVAL_ENTRY_H_
#define FRAMEJIT_FRAME_EVAL_ENTRY_H_

#include <Python.h>

#include <memory>
#include <vector>

#include "frame_eval/armed.h"
#include "frame_eval/compile.h"
#include "frame_eval/trace.h"

namespace framejit {

// Creates framejit._C.Entry and adds it to the module. False with an exception set.
bool AddEntryType(PyObject* module);
bool IsEntry(PyObject* object);

// What became of a call: its result, a state with which a function goes on in the middle of its frames, or nothing yet.
struct EntryStep {
  enum class Kind : uint8_t { kReturned, kResume, kNative };
  Kind kind = Kind::kNative;
  PyRef result;               // kReturned: null with an exception set. kResume: the state
  PyRef function;             // kResume
  bool is_uncovered = false;  // kNative: another recording may cover the call
};

// Segments: what `root` compiled for going on in the middle of its frames. They are entries themselves, never called.
// The one for the chain of functions (innermost first); null without an exception where none is to be tried any more.
PyRef SegmentOf(PyObject* root, const std::vector<PyObject*>& functions);
// One call of an entry or a segment, up to a break. Never throws.
EntryStep RunEntry(PyObject* entry, const CallState& call_state);
// What comes behind a step that ended with kResume: a new reference to the result, or null with an exception set.
PyObject* Resume(PyObject* entry, PyRef function, PyRef state);
// Whether the entry is not to be tried any more, because nothing that is recorded covers its calls.
bool EntryGaveUp(PyObject* entry);
// For what runs natively on behalf of the entry; borrowed. Null where nothing is to be captured there.
InnerEntries* InnerEntriesOf(PyObject* entry);
// Whether this thread must leave calls of the code to the interpreter now (disabled, recording, traced, under a mode).
bool MustRunNatively(PyCodeObject* code);

// A new entry for a Python function; null with an exception set.
PyObject* NewEntry(PyObject* function, CompileOptions options);
// The function that an entry stands for, borrowed.
PyObject* EntryFunction(PyObject* entry);
// The entry's traces, most recently used first, then its segments' and those of functions that were captured for it.
// They stay valid whatever happens to the entry.
std::vector<std::shared_ptr<Trace>> EntryTraces(PyObject* entry);

// Forgets all traces of one entry, or of every entry.
void ResetEntry(PyObject* entry);
void ResetAllEntries();

// Process-wide (FRAMEJIT_DISABLE) and for the current thread (framejit.disable scopes; nesting counts).
void SetEnabled(bool enabled);
void AddDisableDepth(int change);

// The exception raised under fullgraph=True.
void SetGraphBreakError(PyObject* type);
// The exception raised where a check finds a fault of ours.
void SetCheckError(PyObject* type);
// The exception raised where a size that the program says varies had to be fixed.
void SetDynamicShapeError(PyObject* type);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_ENTRY_H_
