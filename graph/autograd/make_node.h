// MakeNode: nodes of torch's autograd, of whichever version.
#ifndef FRAMEJIT_GRAPH_AUTOGRAD_MAKE_NODE_H_
#define FRAMEJIT_GRAPH_AUTOGRAD_MAKE_NODE_H_

#include <torch/csrc/autograd/function.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace framejit {

// Newer torch counts references in the node; before, a shared_ptr did, whose deleter takes long chains of nodes apart
// without recursion. It is found by the node's base class.
template <typename N, typename... Arguments>
auto MakeNode(Arguments&&... arguments) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>) {
    return c10::make_intrusive<N>(std::forward<Arguments>(arguments)...);
  } else {
    return std::shared_ptr<N>(new N(std::forward<Arguments>(arguments)...), [](N* node) { deleteNode(node); });
  }
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_AUTOGRAD_MAKE_NODE_H_
