//! The heads, with the parameter names of mmsegmentation: a linear one, and UperNet (Xiao et al. 2018) on
//! a feature pyramid made of four maps of one size.

use dora_data::rng::{Draw, stream};
use dora_model::StateDict;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};

use super::recipe::{HeadKind, HeadSection};

const BATCH_NORM_MOMENTUM: f64 = 0.1;
const BATCH_NORM_EPS: f64 = 1e-5;

/// A head, its parameters and the running statistics of its batch norms.
#[derive(Debug)]
pub struct Head {
    section: HeadSection,
    params: StateDict,
    buffers: StateDict,
}

/// Logits at the resolution of the head, `[N, C, h, w]`.
#[derive(Debug)]
pub struct Logits {
    /// Of the head.
    pub main: Tensor,
    /// Of the auxiliary head, in training only.
    pub auxiliary: Option<Tensor>,
}

/// How a head is run.
#[derive(Debug)]
pub enum Mode<'a> {
    /// Batch statistics, and channels left out as drawn.
    Train(&'a mut ChaCha8Rng),
    /// Running statistics.
    Test,
}

impl Head {
    /// A fresh head over maps of `width` channels, drawn from a stream of `seed`: weights of the last
    /// convolutions from a normal distribution of standard deviation 0.01, of others as He et al. (2015)
    /// for ReLU, transposed ones as PyTorch does by default.
    pub fn init(
        section: &HeadSection,
        width: i64,
        classes: i64,
        seed: u64,
        device: Device,
    ) -> Self {
        let mut maker =
            Maker { seed, device, params: StateDict::default(), buffers: StateDict::default() };
        match section.kind {
            HeadKind::Linear => maker.last_conv("decode_head.conv_seg", 4 * width, classes),
            HeadKind::Upernet => maker.upernet(section, width, classes),
        }
        Self { section: section.clone(), params: maker.params, buffers: maker.buffers }
    }

    /// Trained parameters, by name.
    pub fn params(&self) -> &StateDict {
        &self.params
    }

    /// Everything that must be saved: parameters and running statistics share their storage with it.
    pub fn state(&self) -> StateDict {
        self.params.with_prefix("").merge(self.buffers.with_prefix(""))
    }

    /// Another handle on the same tensors, for another thread.
    pub fn share(&self) -> Self {
        Self {
            section: self.section.clone(),
            params: self.params.with_prefix(""),
            buffers: self.buffers.with_prefix(""),
        }
    }

    /// Logits of the four maps `[N, D, h, w]`.
    pub fn forward(&self, maps: &[Tensor; 4], mode: &mut Mode) -> Logits {
        match self.section.kind {
            HeadKind::Linear => {
                let maps = self.dropout(&Tensor::cat(maps, 1), mode);
                Logits { main: self.conv("decode_head.conv_seg", &maps, 0), auxiliary: None }
            }
            HeadKind::Upernet => self.upernet(maps, mode),
        }
    }

    /// Logits `[B, C]` of the linear head for patches `[B, 4 * D]`.
    ///
    /// # Panics
    /// If it is another head.
    pub fn forward_patches(&self, patches_BX: &Tensor) -> Tensor {
        assert_eq!(self.section.kind, HeadKind::Linear, "only the linear head sees single patches");
        let weight_CX = self.param("decode_head.conv_seg.weight").flatten(1, 3);
        patches_BX.linear(&weight_CX, Some(&self.param("decode_head.conv_seg.bias")))
    }

    fn upernet(&self, maps: &[Tensor; 4], mode: &mut Mode) -> Logits {
        let section = &self.section;
        let [x4, x2, x1, deepest] = maps;
        let up = |name: &str, input: &Tensor| {
            let (weight, bias) =
                (self.param(&format!("{name}.weight")), self.param(&format!("{name}.bias")));
            input.conv_transpose2d(&weight, Some(&bias), [2, 2], [0, 0], [0, 0], 1, [1, 1])
        };
        let x4 = self.batch_norm("neck.fpn1.1", &up("neck.fpn1.0", x4), mode).gelu("none");
        let x4 = up("neck.fpn1.3", &x4);
        let x2 = up("neck.fpn2.0", x2);
        // A map of one cell stays one.
        let (_, _, rows, columns) = deepest.size4().expect("maps are [N, D, h, w]");
        let half = deepest.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], rows.min(columns) < 2);
        let auxiliary = self.auxiliary(maps, mode);

        let conv = |name: &str, input: &Tensor, padding: i64, mode: &mut Mode| {
            let name = format!("decode_head.{name}");
            self.batch_norm(
                &format!("{name}.bn"),
                &self.conv(&format!("{name}.conv"), input, padding),
                mode,
            )
            .relu()
        };
        let mut pooled = vec![half.shallow_clone()];
        for (index, &side) in section.pool_sides.iter().enumerate() {
            let cells = half.adaptive_avg_pool2d([side, side]);
            let cells = conv(&format!("psp_modules.{index}.1"), &cells, 0, mode);
            pooled.push(resize_like(&cells, &half));
        }
        let mut above = conv("bottleneck", &Tensor::cat(&pooled, 1), 1, mode);
        let mut levels = vec![above.shallow_clone()];
        for (index, input) in [&x4, &x2, x1].into_iter().enumerate().rev() {
            let lateral = conv(&format!("lateral_convs.{index}"), input, 0, mode);
            above = &lateral + resize_like(&above, &lateral);
            levels.push(conv(&format!("fpn_convs.{index}"), &above, 1, mode));
        }
        levels.reverse();
        let levels: Vec<Tensor> =
            levels.iter().map(|level| resize_like(level, &levels[0])).collect();
        let fused = conv("fpn_bottleneck", &Tensor::cat(&levels, 1), 1, mode);
        let main = self.conv("decode_head.conv_seg", &self.dropout(&fused, mode), 0);
        Logits { main, auxiliary }
    }

    /// A convolutional head on one block, that helps to train the encoder.
    fn auxiliary(&self, maps: &[Tensor; 4], mode: &mut Mode) -> Option<Tensor> {
        let section = &self.section;
        if section.auxiliary_weight == 0.0 || matches!(mode, Mode::Test) {
            return None;
        }
        let map = section.blocks.iter().position(|block| *block == section.auxiliary_block)?;
        let hidden = self.conv("auxiliary_head.convs.0.conv", &maps[map], 1);
        let hidden = self.batch_norm("auxiliary_head.convs.0.bn", &hidden, mode).relu();
        Some(self.conv("auxiliary_head.conv_seg", &self.dropout(&hidden, mode), 0))
    }

    fn param(&self, name: &str) -> Tensor {
        self.params.get(name).expect("a parameter that `init` made")
    }

    fn conv(&self, name: &str, input: &Tensor, padding: i64) -> Tensor {
        let bias = self.params.get(&format!("{name}.bias")).ok();
        let weight = self.param(&format!("{name}.weight"));
        input.conv2d(&weight, bias.as_ref(), [1, 1], [padding, padding], [1, 1], 1)
    }

    fn batch_norm(&self, name: &str, input: &Tensor, mode: &Mode) -> Tensor {
        let [weight, bias] = ["weight", "bias"].map(|part| self.param(&format!("{name}.{part}")));
        let [mean, var] = ["running_mean", "running_var"]
            .map(|part| self.buffers.get(&format!("{name}.{part}")).expect("a buffer of `init`"));
        let is_training = matches!(mode, Mode::Train(_));
        input.batch_norm(
            Some(&weight),
            Some(&bias),
            Some(&mean),
            Some(&var),
            is_training,
            BATCH_NORM_MOMENTUM,
            BATCH_NORM_EPS,
            true,
        )
    }

    /// Leaves out whole channels of each image.
    fn dropout(&self, input: &Tensor, mode: &mut Mode) -> Tensor {
        let (Mode::Train(rng), true) = (mode, self.section.dropout > 0.0) else {
            return input.shallow_clone();
        };
        let keep = 1.0 - self.section.dropout;
        let (images, channels, ..) = input.size4().expect("maps are [N, D, h, w]");
        let factors: Vec<f32> = (0..images * channels)
            .map(|_| if rng.chance(keep) { (1.0 / keep) as f32 } else { 0.0 })
            .collect();
        let factors = Tensor::from_slice(&factors).reshape([images, channels, 1, 1]);
        input * factors.to_device(input.device())
    }
}

/// Resizes maps bilinearly to the rows and columns of others.
fn resize_like(maps: &Tensor, like: &Tensor) -> Tensor {
    let size = &like.size()[2..];
    if maps.size()[2..] == *size {
        return maps.shallow_clone();
    }
    maps.upsample_bilinear2d(size, false, None::<f64>, None::<f64>)
}

/// Makes tensors, each drawn from a stream of its name.
struct Maker {
    seed: u64,
    device: Device,
    params: StateDict,
    buffers: StateDict,
}

impl Maker {
    fn upernet(&mut self, section: &HeadSection, width: i64, classes: i64) {
        let channels = section.channels;
        for name in ["neck.fpn1.0", "neck.fpn1.3", "neck.fpn2.0"] {
            self.transposed_conv(name, width);
        }
        self.norm("neck.fpn1.1", width);
        for index in 0..section.pool_sides.len() {
            self.conv_norm(&format!("decode_head.psp_modules.{index}.1"), width, channels, 1);
        }
        let pooled = width + section.pool_sides.len() as i64 * channels;
        self.conv_norm("decode_head.bottleneck", pooled, channels, 3);
        for index in 0..3 {
            self.conv_norm(&format!("decode_head.lateral_convs.{index}"), width, channels, 1);
            self.conv_norm(&format!("decode_head.fpn_convs.{index}"), channels, channels, 3);
        }
        self.conv_norm("decode_head.fpn_bottleneck", 4 * channels, channels, 3);
        self.last_conv("decode_head.conv_seg", channels, classes);
        if section.auxiliary_weight > 0.0 {
            let hidden = section.auxiliary_channels;
            self.conv_norm("auxiliary_head.convs.0", width, hidden, 3);
            self.last_conv("auxiliary_head.conv_seg", hidden, classes);
        }
    }

    /// Weights and biases uniform within 1 / sqrt(fan), where PyTorch's fan is output channels times
    /// cells of the kernel.
    fn transposed_conv(&mut self, name: &str, width: i64) {
        let limit = 1.0 / ((4 * width) as f64).sqrt();
        let uniform = |rng: &mut ChaCha8Rng| rng.uniform(-limit, limit);
        self.draw(&format!("{name}.weight"), &[width, width, 2, 2], uniform);
        self.draw(&format!("{name}.bias"), &[width], uniform);
    }

    fn last_conv(&mut self, name: &str, from: i64, to: i64) {
        self.weight(name, &[to, from, 1, 1], 0.01);
        self.bias(name, to);
    }

    fn conv_norm(&mut self, name: &str, from: i64, to: i64, side: i64) {
        let fan_out = (to * side * side) as f64;
        self.weight(&format!("{name}.conv"), &[to, from, side, side], (2.0 / fan_out).sqrt());
        self.norm(&format!("{name}.bn"), to);
    }

    fn norm(&mut self, name: &str, channels: i64) {
        let options = (Kind::Float, self.device);
        let ones = || Tensor::ones([channels], options);
        self.params.insert(format!("{name}.weight"), ones().set_requires_grad(true));
        self.bias(name, channels);
        self.buffers.insert(format!("{name}.running_mean"), Tensor::zeros([channels], options));
        self.buffers.insert(format!("{name}.running_var"), ones());
    }

    fn weight(&mut self, name: &str, shape: &[i64], std: f64) {
        self.draw(&format!("{name}.weight"), shape, |rng| {
            let normal: f64 = StandardNormal.sample(rng);
            normal * std
        });
    }

    fn draw(&mut self, name: &str, shape: &[i64], number: impl Fn(&mut ChaCha8Rng) -> f64) {
        let mut rng = stream(self.seed, &format!("head {name}"), &[]);
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| number(&mut rng) as f32).collect();
        let values = Tensor::from_slice(&values).reshape(shape).to_device(self.device);
        self.params.insert(name, values.set_requires_grad(true));
    }

    fn bias(&mut self, name: &str, channels: i64) {
        let bias = Tensor::zeros([channels], (Kind::Float, self.device));
        self.params.insert(format!("{name}.bias"), bias.set_requires_grad(true));
    }
}
