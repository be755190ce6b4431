// The torch-level graph of a recording as torch's own autograd runs it: call by call, with the inputs it writes put
// back where it raises.
#ifndef FRAMEJIT_FRAME_EVAL_AUTOGRAD_GRAPH_H_
#define FRAMEJIT_FRAME_EVAL_AUTOGRAD_GRAPH_H_

#include "backends/training/training.h"
#include "graph/graph.h"
#include "graph/torch_graph.h"

namespace framejit {

// Copies what it needs of the two graphs. Requires the GIL.
AutogradGraphMaker MakeAutogradGraphLater(const Graph& recorded, const TorchGraph& torch_graph);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_AUTOGRAD_GRAPH_H_
