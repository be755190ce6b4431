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
  kConstant,     // `object` itself: an immutable value, type, function or module
  kSource,       // the outside object at `source`
  kGraphOutput,  // graph output number `index`
  kTuple,        // children; `object` is the class, or null for plain tuple. torch.Size and structseq included
  kList,         // children; `object` is a list subclass or null
  kDict,         // children: key, value, key, value, ...; `object` is a dict subclass or null
  kSet,          // children; `object` is the class: set, frozenset or a subclass
  kDeque,        // children; `index` is maxlen or -1
  kSlice,        // start, stop, step
  kInstance,     // object.__new__-built instance of class `object`; content in attributes
  kFunction,     // `object` is the code; children: globals (source or constant), name, defaults, kwdefaults, closure,
                 // annotations, dict; kNoRecipe where absent
  kMethod,       // bound method: function, self
  kCell,         // child: contents, or none when empty
  kException,    // never raised: `object` is its class; child: its args; content of __dict__ in attributes
  kIterator,     // a builtin iterator in progress: `object` is its type; child: the tuple of its parts
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
  kSetAttribute,  // target instance (source or recipe).__dict__[key] = value, or a native descriptor's __set__
  kDeleteAttribute,
  kSetDictItem,  // target dict: key (recipe), value
  kDeleteDictItem,
  kReplaceDict,  // target dict cleared, then filled with the items of the dict recipe `value` (order changed)
  kReplaceList,  // target[:] = the list recipe `value`
  kExtendList,   // target[len(target):] = the list recipe `value`
  kReplaceSet,   // target cleared, then updated with the set recipe `value`
  kReplaceDeque,
  kSetCell,  // target cell's contents = value, or emptied where value is kNoRecipe
  kCall,     // `callable`(*constant arguments): torch state changes such as torch._C._set_grad_enabled
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
