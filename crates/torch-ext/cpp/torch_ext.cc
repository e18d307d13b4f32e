// Autocast, optimisers, lists of tensors, and the allocator under them. As in all files here, a function
// wraps a few exported symbols and gives an exception's text back (null = success).

#include "guarded.h"

#include <ATen/autocast_mode.h>
#include <malloc.h>

namespace {

c10::DeviceType device_type(int is_cuda) {
  return is_cuda ? c10::DeviceType::CUDA : c10::DeviceType::CPU;
}

} // namespace

extern "C" {

void te_free_error(char *message) { free(message); }

void te_keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

char *te_autocast_enter(int is_cuda, int dtype, int *was_enabled, int *old_dtype) {
  return guarded([&] {
    auto device = device_type(is_cuda);
    *was_enabled = at::autocast::is_autocast_enabled(device);
    *old_dtype = static_cast<int>(at::autocast::get_autocast_dtype(device));
    at::autocast::increment_nesting();
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    at::autocast::set_autocast_enabled(device, true);
  });
}

char *te_autocast_exit(int is_cuda, int was_enabled, int old_dtype) {
  return guarded([&] {
    auto device = device_type(is_cuda);
    at::autocast::set_autocast_enabled(device, was_enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(old_dtype));
    // The cache holds the weights cast for this region; the optimiser changes them afterwards.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  });
}

char *te_fused_adamw(List params, List grads, List exp_avgs, List exp_avg_sqs, List steps, size_t n,
                     double lr, double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto p = collect(params, n), g = collect(grads, n), m = collect(exp_avgs, n),
         v = collect(exp_avg_sqs, n), s = collect(steps, n);
    for (auto &step : s) step.add_(1);
    at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, weight_decay, eps, false, false);
  });
}

char *te_clip_each(List grads, size_t n, double max_norm, double eps, double factor,
                   Tensor **norms_out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto g = collect(grads, n);
    auto norms = at::_foreach_norm(g, 2);
    auto true_norms = at::stack(norms).mul_(factor);
    auto clipped = (max_norm / (true_norms + eps)).clamp_max_(1).mul_(factor);
    at::_foreach_mul_(g, clipped.unbind());
    *norms_out = new Tensor(true_norms);
  });
}

char *te_lerp_each(List targets, List ends, size_t n, double weight) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_foreach_lerp_(collect(targets, n), collect(ends, n), weight);
  });
}

char *te_clear_grads(List params, size_t n) {
  return guarded([&] {
    for (size_t i = 0; i < n; i++) params[i]->mutable_grad() = Tensor();
  });
}
}
