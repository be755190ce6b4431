// Where a graph holds for one place of an input in its memory alone.
#ifndef FRAMEJIT_FRAME_EVAL_OFFSET_GUARDS_H_
#define FRAMEJIT_FRAME_EVAL_OFFSET_GUARDS_H_

#include <vector>

#include "frame_eval/guards/guard.h"
#include "graph/graph.h"

namespace framejit {

// The guards of a recording, where storage offsets are part of what must match of some of its inputs. Most graphs hold
// for any offset (parts of one data set, one after the other): those that make a view of a written input or of memory
// as a whole name the offset.
GuardList WithOffsets(const GuardList& guards, const std::vector<SourceId>& inputs, const Graph& recorded);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_OFFSET_GUARDS_H_
