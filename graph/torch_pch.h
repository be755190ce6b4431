// The precompiled header of every component that uses torch.
#ifndef FRAMEJIT_GRAPH_TORCH_PCH_H_
#define FRAMEJIT_GRAPH_TORCH_PCH_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <Python.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#endif  // FRAMEJIT_GRAPH_TORCH_PCH_H_
