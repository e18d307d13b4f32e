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

void te_autocast_hold() { at::autocast::increment_nesting(); }

void te_autocast_release() {
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
}

void *te_autocast_suspend() {
  return new c10::impl::ExcludeDispatchKeyGuard(c10::autocast_dispatch_keyset);
}

void te_autocast_resume(void *guard) {
  delete static_cast<c10::impl::ExcludeDispatchKeyGuard *>(guard);
}

char *te_fused_adamw(List params, List grads, List exp_avgs, List exp_avg_sqs, List steps, size_t n,
                     double lr, double beta1, double beta2, double weight_decay, double eps,
                     Tensor *found_inf) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto p = collect(params, n), g = collect(grads, n), m = collect(exp_avgs, n),
         v = collect(exp_avg_sqs, n), s = collect(steps, n);
    if (found_inf)
      at::_foreach_add_(s, 1 - *found_inf);
    else
      at::_foreach_add_(s, 1);
    auto guard = found_inf ? std::optional(*found_inf) : std::nullopt;
    at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, weight_decay, eps, false, false, {},
                      guard);
  });
}

char *te_clip_each(List grads, size_t n, double max_norm, double eps, Tensor *scale,
                   Tensor **norms_out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto g = collect(grads, n);
    auto norms = at::stack(at::_foreach_norm(g, 2));
    if (scale) norms /= *scale;
    auto factors = (max_norm / (norms + eps)).clamp_max_(1);
    if (scale) factors /= *scale;
    at::_foreach_mul_(g, factors.unbind());
    *norms_out = new Tensor(norms);
  });
}

// SGD on half the squared distance, `target -= weight * (target - end)`: the one list operation that
// moves towards other tensors and leaves all as they are where found_inf is 1, without the host.
char *te_lerp_each(List targets, List ends, size_t n, double weight, Tensor *found_inf) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const double weight_decay = 1, momentum = 0, dampening = 0;
    const bool nesterov = false, maximize = true, is_first_step = true;
    at::_fused_sgd_(collect(targets, n), collect(ends, n), {}, weight_decay, momentum, weight,
                    dampening, nesterov, maximize, is_first_step, {}, *found_inf);
  });
}

char *te_update_loss_scale(Tensor *scale, Tensor *good_steps, Tensor *found_inf, double growth,
                           double backoff, int64_t growth_interval) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_amp_update_scale_(*scale, *good_steps, *found_inf, growth, backoff, growth_interval);
  });
}

char *te_clear_grads(List params, size_t n) {
  return guarded([&] {
    for (size_t i = 0; i < n; i++) params[i]->mutable_grad() = Tensor();
  });
}
}
