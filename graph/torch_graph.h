// The torch-level view of a recording: the calls the program made, as it made them (torch.nn.functional.linear, x + y,
// x.view(...), x[0]), over the same tensors. torch.fx GraphModules are made from it (graph/fx_export.h); it is what the
// backends of torch.compile expect, and what runs under torch's own autograd.
#ifndef FRAMEJIT_GRAPH_TORCH_GRAPH_H_
#define FRAMEJIT_GRAPH_TORCH_GRAPH_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "frame_eval/cpython/py_ref.h"
#include "graph/graph.h"

namespace framejit {

using TorchValueId = int32_t;
// Of a number that varies from call to call (graph/symbolic/program.h).
using SymbolId = int32_t;
inline constexpr SymbolId kNoSymbol = -1;

// A snapshot of one argument or result, taken when the call was made (lists may change afterwards).
struct TorchArgument {
  enum class Kind : uint8_t { kConstant, kValue, kTuple, kList, kDict, kSlice };
  Kind kind = Kind::kConstant;
  PyRef constant;                    // kConstant: the object; kTuple: a namedtuple or torch.Size type, or null
  TorchValueId value = -1;           // kValue
  std::vector<TorchArgument> items;  // kTuple, kList, kSlice (start, stop, step); kDict: the values
  std::vector<PyRef> keys;           // kDict
  SymbolId symbol = kNoSymbol;       // kConstant: the symbol that it is; `constant` is what that was while recording
};

struct TorchCall {
  enum class Kind : uint8_t {
    kFunction,   // target(*args, **kwargs); operators are the functions of module `operator`, a leaf may be a module
    kMethod,     // getattr(args[0], target)(*args[1:], **kwargs); target is a str
    kAttribute,  // getattr(args[0], target); target is a str
  };
  Kind kind = Kind::kFunction;
  PyRef target;
  std::vector<TorchArgument> args;
  std::vector<std::pair<PyRef, TorchArgument>> kwargs;
  TorchArgument result;   // tensors inside are new values, or the value of an argument where the call returned it
  int32_t location = -1;  // index into Graph::locations
};

struct TorchGraph {
  std::vector<TensorMeta> values;    // indexed by TorchValueId; metadata when the value was made
  std::vector<TorchValueId> inputs;  // one per Graph::inputs, in the same order
  std::vector<std::pair<TorchValueId, at::Tensor>> constants;
  std::vector<TorchCall> calls;
  std::vector<TorchValueId> outputs;  // one per Graph::outputs, in the same order
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_TORCH_GRAPH_H_
