// In which order the nodes of a kernel run: passes over the inner dimension, what is computed once per row between
// them, and which element values a later pass takes from a row buffer instead of computing them again.
#ifndef FRAMEJIT_BACKENDS_LOOP_SCHEDULE_H_
#define FRAMEJIT_BACKENDS_LOOP_SCHEDULE_H_

#include <vector>

#include "backends/loop/loop_ir.h"

namespace framejit::loop {

struct Pass {
  std::vector<ValueId> row_nodes;  // before the loop, once per row: values, and stores of row values
  std::vector<ValueId> elements;   // in the loop, in order: values, reductions (one step), stores of element values
  std::vector<ValueId> reloaded;   // element values this pass takes from the row buffer; not in `elements`
  std::vector<ValueId> kept;       // element values of this pass written to the row buffer
};

struct Schedule {
  std::vector<Pass> passes;      // the last one may have no elements
  std::vector<bool> is_element;  // by ValueId
  std::vector<int> first_pass;   // by ValueId: the pass that defines it; reductions are usable one pass later
  std::vector<ValueId> kept;     // every value with a slot in the row buffer
};

// A rough cost in vector instructions of one evaluation of the operator.
int OpCost(const Kernel& kernel, const Node& node);

// `row_buffer_bytes`: the most that may be kept per row.
Schedule MakeSchedule(const Kernel& kernel, int64_t row_buffer_bytes);

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_SCHEDULE_H_
