// Recipes: how to build afresh, on each call, every object that leaves a recording. A recipe is a node of a table; its
// position is its identity, so an object that is reached twice is built once per call, and cycles are possible through
// containers and instances.
#ifndef FRAMEJIT_GRAPH_CAPTURE_RECIPE_H_
#define FRAMEJIT_GRAPH_CAPTURE_RECIPE_H_

#include <cstdint>
#include <vector>

#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/source.h"

namespace framejit {

using RecipeId = int32_t;
inline constexpr RecipeId kNoRecipe = -1;

enum class RecipeKind : uint8_t {
#define RECIPE(kind, description) k##kind,
#include "graph/capture/recipes.def"
#undef RECIPE
};

struct Recipe {
  RecipeKind kind = RecipeKind::kConstant;
  PyRef object;
  SourceId source = kNoSource;
  int32_t index = -1;
  std::vector<RecipeId> children;
  // Instances and container subclasses: the content of __dict__ and slots, in order.
  std::vector<std::pair<PyRef, RecipeId>> attributes;
};

// What a call does to objects that existed before it, in the order in which the function first touched them. Applied
// after the graph ran and every recipe was built, so that a failure leaves the user's world as it was.
enum class EffectKind : uint8_t {
#define EFFECT(kind, description) k##kind,
#include "graph/capture/effects.def"
#undef EFFECT
};

struct Effect {
  EffectKind kind;
  RecipeId target = kNoRecipe;
  RecipeId key = kNoRecipe;
  RecipeId value = kNoRecipe;
  PyRef callable;   // kCall
  PyRef arguments;  // kCall: a tuple of constants
};

struct ExitPlan {
  std::vector<Recipe> recipes;
  std::vector<Effect> effects;
  RecipeId result = kNoRecipe;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RECIPE_H_
