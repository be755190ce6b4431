// Pointwise operators of plain operands, recorded without torch's parser of arguments and its dispatcher: what they
// would come to is known beforehand, one node and a result that lies as the operands do.
#ifndef FRAMEJIT_GRAPH_FAKE_PLAIN_CALL_H_
#define FRAMEJIT_GRAPH_FAKE_PLAIN_CALL_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include "graph/fake/fake_tensor_impl.h"

namespace framejit {

// Floating, contiguous, with no two strides the same (so that TensorIterator has no choice).
bool IsPlain(const FakeTensorImpl& fake);
// Whether a fake has the sizes, strides, dtype and device of one that is plain.
bool IsLikePlain(const FakeTensorImpl& fake, const FakeTensorImpl& plain);

// Records op(self, other), with the schema's defaults for what follows, as the dispatcher's call of it would, and gives
// its result. `other` is a tensor, or an int or a double that torch wraps. Undefined, with nothing recorded, where any
// of these is in doubt: both operands are plain fakes of the current recording, without autograd's metadata, no other
// dispatch key comes before the recording's, and the operator keeps the layout of plain operands (KeepsPlainLayout).
at::Tensor RecordPlainCall(const c10::OperatorHandle& op, const at::Tensor& self, const c10::IValue& other);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_PLAIN_CALL_H_
