// The textual form of an exit plan, for comparing two recordings and for reading. Runs no user code.
#ifndef FRAMEJIT_FRAME_EVAL_PRINT_EXIT_PLAN_H_
#define FRAMEJIT_FRAME_EVAL_PRINT_EXIT_PLAN_H_

#include <string>
#include <string_view>
#include <vector>

#include "frame_eval/guards/guard.h"
#include "graph/capture/recipe.h"

namespace framejit {

std::string_view RecipeKindName(RecipeKind kind);
std::string_view EffectKindName(EffectKind kind);

// One line per recipe and per effect. Two recordings of the same call, of the same state, give the same text.
std::string PrintExitPlan(const ExitPlan& plan, const SourceTable& sources,
                          const std::vector<std::string>& argument_names);
// "ConstantIs L['n'] 3", one for each guard.
std::vector<std::string> PrintGuards(const GuardList& guards, const SourceTable& sources,
                                     const std::vector<std::string>& argument_names);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_PRINT_EXIT_PLAN_H_
