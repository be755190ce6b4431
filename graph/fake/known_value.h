// What is known of a fake's data while recording.
#ifndef FRAMEJIT_GRAPH_FAKE_KNOWN_VALUE_H_
#define FRAMEJIT_GRAPH_FAKE_KNOWN_VALUE_H_

#include <ATen/core/Tensor.h>

#include <optional>

#include "graph/fake/recording.h"

namespace framejit {

// The data of a value that depends on constants of the graph alone; see FakeSession::KnownValue.
std::optional<at::Tensor> KnownValue(const FakeRecording& recording, ValueId id);
// What a value is in the call that is recorded, see FakeSession::RealValue.
std::optional<at::Tensor> RealValue(const FakeRecording& recording, ValueId id);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_KNOWN_VALUE_H_
