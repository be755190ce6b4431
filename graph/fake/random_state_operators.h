// Operators that say or set the state of a random generator, so that a graph can hold them: framejit::seed,
// framejit::random_state and framejit::set_random_state. Without a generator they mean torch's default one. They are
// tagged as operators that draw random numbers, which keeps them in order among those.
#ifndef FRAMEJIT_GRAPH_FAKE_RANDOM_STATE_OPERATORS_H_
#define FRAMEJIT_GRAPH_FAKE_RANDOM_STATE_OPERATORS_H_

#include <vector>

#include "graph/fake/own_metas.h"

namespace framejit {

// Creates the operators, once per process.
void RegisterRandomStateOperators();

const std::vector<OwnMetaRow>& RandomStateMetas();

// How many bytes the state of a generator on the CPU has.
int64_t RandomStateSize();

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_RANDOM_STATE_OPERATORS_H_
