// torch.distributed: the store that processes meet at, process groups, and DDP's gradient reducer.

#include "guarded.h"
#include "distributed.h"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

using c10d::ProcessGroup;
using std::chrono::milliseconds;

namespace {

// While it lives, libtorch does not log: what it would say of a failed connection is in the exception.
struct Quiet {
  int level = FLAGS_caffe2_log_level;
  Quiet() { FLAGS_caffe2_log_level = 3; }
  ~Quiet() { FLAGS_caffe2_log_level = level; }
};

void finish(const c10::intrusive_ptr<c10d::Work> &work) { work->wait(); }

// Averages a bucket in bfloat16, which has float32's range: no gradient overflows.
struct BFloat16Hook : c10d::CppCommHookInterface<c10::intrusive_ptr<ProcessGroup>> {
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket &bucket) override {
    auto buffer = bucket.getBuffer();
    // Divided before it is rounded, so that a rank's gradient is rounded once.
    std::vector<Tensor> rounded{buffer.div_(state_->getSize()).to(at::kBFloat16)};
    auto reduced = state_->allreduce(rounded)->getFuture();
    auto widen = [buffer](c10::ivalue::Future &future) {
      buffer.copy_(future.value().toTensorVector()[0]);
      return c10::IValue(buffer);
    };
    return reduced->then(widen, c10::TensorType::get());
  }
};

} // namespace

extern "C" {

char *te_tcp_store(const char *host, uint16_t port, int is_server, int64_t timeout_ms,
                   const char *prefix, StoreHandle **out) {
  return guarded([&] {
    Quiet quiet;
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server;
    // Who meets here is checked by the group; waiting for it in the store would hide who is missing.
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    *out = new StoreHandle{c10::make_intrusive<c10d::PrefixStore>(prefix, store)};
  });
}

void te_store_free(StoreHandle *handle) { delete handle; }

char *te_group(StoreHandle *store, const char *address, int rank, int size, int64_t timeout_ms,
               GroupHandle **out) {
  return guarded([&] {
    Quiet quiet;
    auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout_ms));
    options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(address)};
    auto gloo_store = c10::make_intrusive<c10d::PrefixStore>("gloo", store->store);
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(gloo_store, rank, size, options);
    auto group = c10::make_intrusive<ProcessGroup>(store->store, rank, size);
    group->setBackend(c10::DeviceType::CPU, ProcessGroup::BackendType::GLOO, gloo);
    group->setDefaultBackend(ProcessGroup::BackendType::GLOO);
    *out = new GroupHandle{group};
  });
}

void te_group_free(GroupHandle *handle) { delete handle; }

char *te_all_reduce(GroupHandle *handle, Tensor *tensor, int op) {
  return guarded([&] {
    c10d::AllreduceOptions options;
    options.reduceOp = static_cast<c10d::ReduceOp::RedOpType>(op);
    std::vector<Tensor> tensors{*tensor};
    finish(handle->group->allreduce(tensors, options));
  });
}

char *te_broadcast(GroupHandle *handle, Tensor *tensor, int root) {
  return guarded([&] {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    std::vector<Tensor> tensors{*tensor};
    finish(handle->group->broadcast(tensors, options));
  });
}

char *te_all_gather(GroupHandle *handle, Tensor *tensor, List out, size_t n) {
  return guarded([&] {
    std::vector<std::vector<Tensor>> outputs{collect(out, n)};
    std::vector<Tensor> inputs{*tensor};
    finish(handle->group->allgather(outputs, inputs));
  });
}

char *te_barrier(GroupHandle *handle) {
  return guarded([&] {
    c10d::BarrierOptions options;
    // Over Gloo even where NCCL is there, whose failure would end the process instead of this call.
    options.device = c10::Device(c10::DeviceType::CPU);
    finish(handle->group->barrier(options));
  });
}

char *te_reducer(GroupHandle *handle, List params, size_t n, int64_t bucket_bytes,
                 c10d::Reducer **out) {
  return guarded([&] {
    auto variables = collect(params, n);
    std::vector<bool> expect_sparse(n, false);
    std::vector<size_t> limits{static_cast<size_t>(c10d::kDefaultFirstBucketBytes),
                               static_cast<size_t>(bucket_bytes)};
    auto buckets =
        std::get<0>(c10d::compute_bucket_assignment_by_size(variables, limits, expect_sparse, {}));
    std::unique_ptr<c10d::Reducer> reducer(new c10d::Reducer(
        variables, buckets, handle->group, expect_sparse, bucket_bytes,
        /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/true, /*param_names=*/{},
        c10d::kDefaultFirstBucketBytes, /*skip_all_reduce_unused_params=*/false,
        /*use_python_reducer=*/false, /*bucket_bytes_cap_list=*/{}));
    // Otherwise the reducer would lay its buckets out anew after its first step.
    reducer->push_rebuilt_params_for_all_indices();
    reducer->rebuild_buckets();
    *out = reducer.release();
  });
}

char *te_reducer_compress(c10d::Reducer *reducer, GroupHandle *handle) {
  return guarded(
      [&] { reducer->register_comm_hook(std::make_unique<BFloat16Hook>(handle->group)); });
}

char *te_reducer_prepare(c10d::Reducer *reducer) {
  return guarded([&] { reducer->prepare_for_backward({}); });
}

void te_reducer_free(c10d::Reducer *reducer) {
  char *error = guarded([&] { delete reducer; });
  free(error);
}
}
