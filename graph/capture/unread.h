// Unread values: what stands in a resumed frame for a value that was carried into it and that no instruction has looked
// at yet. Instructions that only move values move it; any other reads it first, which lifts the value and leaves the
// guards. So what is merely carried along, or handed to the next native instruction, is not guarded.
#ifndef FRAMEJIT_GRAPH_CAPTURE_UNREAD_H_
#define FRAMEJIT_GRAPH_CAPTURE_UNREAD_H_

#include <Python.h>

#include "bytecode/opcodes.h"
#include "frame_eval/guards/source.h"

namespace framejit {

// New reference; null with an exception set.
PyObject* NewUnread(PyObject* value, SourceId source);
bool IsUnread(PyObject* object);
// Of an unread value; the value is borrowed.
PyObject* UnreadValue(PyObject* unread);
SourceId UnreadSource(PyObject* unread);

// Whether the instruction moves its operands without looking at them.
bool OnlyMoves(Opcode opcode);
// Where the set or dict is that the instruction adds its operands to, counted from the top of the stack; 0: it adds to
// none.
int PlaceOfBuilt(Opcode opcode, int oparg);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_UNREAD_H_
