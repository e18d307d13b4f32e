// GPUs: selecting one, memory figures, and NCCL as the backend of a process group.
//
// Memory and selection go through libtorch's device-neutral interfaces, and a GPU's UUID is asked of the
// driver by name, so only NCCL needs NVIDIA's headers; without the feature `cuda` that one function says
// so.

#include "distributed.h"
#include "guarded.h"

#include <ATen/Context.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <stdexcept>

#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

using std::chrono::milliseconds;

namespace {

// Looks no further than the registry: asking libtorch's CUDA hooks before load_cuda would fix them to
// "no GPU" for good.
int gpu_count() {
  constexpr auto cuda = c10::DeviceType::CUDA;
  return c10::impl::hasDeviceGuardImpl(cuda) ? c10::impl::VirtualGuardImpl(cuda).deviceCount() : 0;
}

void check_index(int index) {
  if (index < 0 || index >= gpu_count())
    throw std::out_of_range("there is no GPU " + std::to_string(index) + ": libtorch sees " +
                            std::to_string(gpu_count()));
}

// The caching allocator, which refuses every question before its first use.
c10::DeviceAllocator *allocator(int index) {
  check_index(index);
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  return c10::getDeviceAllocator(c10::DeviceType::CUDA);
}

// A function of NVIDIA's driver, whose result is 0 on success. The driver counts visible GPUs as libtorch
// does.
template <class... Args> void call_driver(const char *name, Args... args) {
  static void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *symbol = driver ? dlsym(driver, name) : nullptr;
  if (!symbol)
    throw std::runtime_error(std::string("NVIDIA's driver has no ") + name);
  if (int status = reinterpret_cast<int (*)(Args...)>(symbol)(args...))
    throw std::runtime_error(std::string(name) + " gives " + std::to_string(status));
}

// Whether every rank comes here within a few seconds.
bool all_meet(c10d::ProcessGroup &group) {
  try {
    c10d::BarrierOptions options;
    options.timeout = std::chrono::seconds(5);
    return group.getBackend(c10::DeviceType::CPU)->barrier(options)->wait();
  } catch (const std::exception &) {
    return false;
  }
}

} // namespace

extern "C" {

// rustc links with --as-needed and drops libtorch_cuda.so, which registers its kernels when loaded.
int te_load_cuda() {
  // Segments that can grow leave fewer holes between tensors of changing size.
  if (!getenv("PYTORCH_ALLOC_CONF") && !getenv("PYTORCH_CUDA_ALLOC_CONF"))
    c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
  return dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
}

int te_expandable_segments() {
  return c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments();
}

char *te_cuda_set_device(int index) {
  return guarded([&] {
    check_index(index);
    c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA)
        .setDevice({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)});
  });
}

char *te_cuda_uuid(int index, unsigned char *uuid) {
  return guarded([&] {
    check_index(index);
    int device;
    call_driver("cuInit", 0u);
    call_driver("cuDeviceGet", &device, index);
    // The second version tells the parts of a GPU (MIG) apart.
    call_driver("cuDeviceGetUuid_v2", uuid, device);
  });
}

char *te_cuda_peak_memory(int index, int64_t *bytes) {
  return guarded([&] {
    auto aggregate = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *bytes = allocator(index)->getDeviceStats(index).allocated_bytes[aggregate].peak;
  });
}

char *te_cuda_reset_peak_memory(int index) {
  return guarded([&] { allocator(index)->resetPeakStats(index); });
}

char *te_group_add_nccl(GroupHandle *handle, StoreHandle *store, int index, int64_t timeout_ms) {
  return guarded([&] {
#ifdef USE_C10D_NCCL
    check_index(index);
    auto &group = *handle->group;
    c10::Device device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = milliseconds(timeout_ms);
    auto nccl_store = c10::make_intrusive<c10d::PrefixStore>("nccl", store->store);
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(nccl_store, group.getRank(),
                                                            group.getSize(), options);
    nccl->setBoundDeviceId(device);
    try {
      // Now rather than in the first step, so that a GPU that cannot be reached shows at the start.
      nccl->eagerConnectSingleDevice(device);
    } catch (...) {
      nccl->abort();
      throw;
    }
    group.setBoundDeviceId(device);
    group.setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
    // The reducer takes its buckets' memory from the default backend.
    group.setDefaultBackend(c10d::ProcessGroup::BackendType::NCCL);
#else
    (void)handle, (void)store, (void)index, (void)timeout_ms;
    throw std::runtime_error(
        "built without the feature `cuda`: build with `--features cuda` and the complete libtorch, "
        "which `cargo xtask setup --cuda` brings");
#endif
  });
}

char *te_group_end_nccl(GroupHandle *handle) {
  return guarded([&] {
    auto nccl = handle->group->getBackend(c10d::ProcessGroup::BackendType::NCCL);
    // Flushing what is enqueued needs all ranks; where one is gone it would wait for ever.
    if (all_meet(*handle->group))
      nccl->shutdown();
    else
      nccl->abort();
  });
}
}
