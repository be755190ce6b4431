// Recording a backward: torch's autograd engine runs on the fakes of a recording, so that what its formulas call lands
// behind the forward in the same graph. Knows nothing of Python frames.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_RECORD_BACKWARD_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_RECORD_BACKWARD_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "graph/autograd/joint_graph.h"
#include "graph/fake/fake_session.h"

namespace framejit {

// `session` has recorded a forward whose Graph::outputs are set; `inputs` are the fakes of its inputs that require
// grad, `outputs` those of all its outputs. The session's graph is as before afterwards, whatever happens.
// Unimplemented says why torch's own autograd has to differentiate the call. Requires the GIL, which it gives up while
// the engine runs.
absl::StatusOr<std::unique_ptr<JointGraph>> RecordBackward(FakeSession& session, const std::vector<at::Tensor>& inputs,
                                                           const std::vector<at::Tensor>& outputs);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_RECORD_BACKWARD_H_
