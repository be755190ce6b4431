// A graph break as data: a row of breaks.def, what exactly was met, and where in the user's program.
#ifndef FRAMEJIT_GRAPH_CAPTURE_BREAK_H_
#define FRAMEJIT_GRAPH_CAPTURE_BREAK_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace framejit {

enum class BreakClass : uint8_t { unsupported, limit, internal, raise };

enum class BreakCode : uint8_t {
#define BREAK(code, break_class, message, hint) k##code,
#include "graph/capture/breaks.def"
#undef BREAK
};

std::string_view BreakCodeName(BreakCode code);
BreakClass BreakCodeClass(BreakCode code);
std::string_view BreakMessage(BreakCode code);
std::string_view BreakHint(BreakCode code);

struct Break {
  BreakCode code = BreakCode::kInternalError;
  std::string detail;                 // e.g. "builtins.print", "aten::nonzero"
  std::vector<SourceLocation> stack;  // the user's frames, outermost first; the last one is where it broke

  // "graph break: model.py:12 in forward: <message>: <detail> [UnsupportedCallable]; hint: <hint>"
  std::string ToString() const;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_BREAK_H_
