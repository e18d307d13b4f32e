//! What time is measured beside: the rate at which the device multiplies matrices.

use std::time::{Duration, Instant};

use tch::{Cuda, Device, Kind, Tensor, no_grad};

const LEAST_PRODUCTS: usize = 3;
const MOST_PRODUCTS: usize = 200;
const TIME: Duration = Duration::from_secs(1);

/// Floating-point operations a second in square products of `kind`, all threads: the median of about
/// a second of them, after one or more that do not count.
pub fn matrix_flops_per_s(device: Device, kind: Kind) -> f64 {
    no_grad(|| {
        let side = matrix_side(device);
        let matrix = |phase: f64| {
            let numbers = Tensor::arange(side * side, (Kind::Float, device)) + phase;
            numbers.sin().reshape([side, side]).to_kind(kind)
        };
        let (a, b) = (matrix(0.0), matrix(0.5));
        let mut product = a.matmul(&b);
        wait_for(device);
        let mut seconds = Vec::new();
        let started = Instant::now();
        while seconds.len() < LEAST_PRODUCTS
            || (started.elapsed() < TIME && seconds.len() < MOST_PRODUCTS)
        {
            let begun = Instant::now();
            product = a.matmul_out(&product, &b);
            wait_for(device);
            seconds.push(begun.elapsed().as_secs_f64());
        }
        2.0 * (side as f64).powi(3) / median(&seconds)
    })
}

/// A rate of float32 products in words, as every table has it.
pub fn matrix_rate(flops_per_s: f64) -> String {
    format!("{:.3} TFLOP/s in float32", flops_per_s / 1e12)
}

/// How fast images went through an encoder, and what share of the matrix rate that is, in words.
pub fn image_rate(images_per_s: f64, share: f64, flops_per_s: f64) -> String {
    format!("{images_per_s:.2} images/s, {share:.2} of {}", matrix_rate(flops_per_s))
}

/// Side of the matrices: large enough for the device's full rate.
pub fn matrix_side(device: Device) -> i64 {
    if device.is_cuda() { 8192 } else { 2000 }
}

/// The middle of numbers, of which there is at least one; between the middle two if they are even.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Returns once the device has done all it was given.
pub fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
