// The precompiled header of every component that uses torch. pybind11, and what includes it (python_variable.h), is
// left to the few files that need it: it puts code into every object, which trebles the time of compiling one.
#ifndef FRAMEJIT_GRAPH_TORCH_PCH_H_
#define FRAMEJIT_GRAPH_TORCH_PCH_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <Python.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#endif  // FRAMEJIT_GRAPH_TORCH_PCH_H_
