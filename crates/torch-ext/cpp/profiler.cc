// The profiler behind torch.profiler (Kineto): what operators and kernels ran, and when.

#include "guarded.h"

#include <torch/csrc/autograd/profiler_kineto.h>

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

extern "C" {

char *te_profiler_start(int is_cuda) {
  return guarded([&] {
    ProfilerConfig config(ProfilerState::KINETO);
    std::set<ActivityType> activities{ActivityType::CPU};
    if (is_cuda) activities.insert(ActivityType::CUDA);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
  });
}

char *te_profiler_stop(const char *path) {
  return guarded([&] { profiler::disableProfiler()->save(path); });
}
}
