// What every function of the C++ half shares: exceptions become texts, handles become tensors.

#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <exception>
#include <vector>

using at::Tensor;
using List = Tensor *const *;

// Runs `body`; null means success, else the exception's text, which te_free_error frees.
template <class F> char *guarded(F &&body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

inline std::vector<Tensor> collect(List tensors, size_t n) {
  std::vector<Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; i++) out.push_back(*tensors[i]);
  return out;
}
