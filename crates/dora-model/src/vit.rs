//! Vision transformer (Dosovitskiy et al. 2021) as DINO uses it: pre-norm blocks, a `[CLS]` token,
//! and a learned position embedding that is interpolated to other image sizes.

use rand::{Rng, RngExt};
use tch::{Device, Kind, Tensor};
use torch_ext::{checkpoint, without_autocast};

use crate::{StateDict, StateError, pos_embed::PosEmbed, state::ParameterShape};

/// Width of an attention head in every ViT of this family.
pub(crate) const HEAD_WIDTH: i64 = 64;
const NORM_EPS: f64 = 1e-6;

/// Sizes of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VitConfig {
    /// Side of a patch in pixels.
    pub patch_px: i64,
    /// Width of a token.
    pub width: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads of a block.
    pub heads: i64,
    /// Width of the MLP's hidden layer in widths of a token.
    pub mlp_ratio: i64,
    /// Side in pixels of the square image that the position embedding is learned for.
    pub image_px: i64,
    /// Added to the variance in every layer norm.
    pub norm_eps: f64,
}

/// The block that gives the tracker its attention, queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackerLayer {
    /// The last block (released code).
    Last,
    /// The one before (the paper's figure).
    SecondLast,
}

/// What the teacher's encoder gives for images.
#[derive(Debug)]
pub struct Features {
    /// All tokens after the final norm.
    pub tokens_NSD: Tensor,
    /// Queries of the tracker's block before scaling.
    pub queries_NHSE: Tensor,
    /// Keys of the tracker's block.
    pub keys_NHSE: Tensor,
}

/// Stochastic depth (Huang et al. 2016): which residual branches of which images are left out.
#[derive(Debug)]
pub struct DropPath {
    /// Factor of each block's two branches for each image: 0 or `1 / keep`; `[2 * depth, N]`.
    scales_RN: Tensor,
}

/// The encoder.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    patch_weight_DCHW: Tensor,
    patch_bias_D: Tensor,
    cls_token_11D: Tensor,
    pos_embed: PosEmbed,
    blocks: Vec<Block>,
    checkpoint_blocks: usize,
    norm: LayerNorm,
    tokens_kind: Kind,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Vit {
    /// Fresh parameters for a configuration: float32 on the CPU.
    pub fn init(config: &VitConfig, rng: &mut impl Rng) -> StateDict {
        let patch_fan_in = 3 * config.patch_px * config.patch_px;
        let fan_in = |name: &str| name.starts_with("patch_embed.proj.").then_some(patch_fan_in);
        StateDict::init(config.parameter_shapes(), fan_in, rng)
    }

    /// An encoder over the tensors of a state dict, whose storage it shares.
    pub fn from_state(config: &VitConfig, state: &StateDict) -> Result<Self, StateError> {
        state.check_shapes(&config.parameter_shapes())?;
        let linear = |name: String| -> Result<Linear, StateError> {
            let [weight, bias] = ["weight", "bias"].map(|n| state.get(&format!("{name}.{n}")));
            Ok(Linear { weight: weight?, bias: bias? })
        };
        let norm = |name: String| -> Result<LayerNorm, StateError> {
            let Linear { weight, bias } = linear(name)?;
            Ok(LayerNorm { weight, bias, eps: config.norm_eps })
        };
        let block = |index: i64| -> Result<Block, StateError> {
            let name = |part: &str| format!("blocks.{index}.{part}");
            Ok(Block {
                norm1: norm(name("norm1"))?,
                qkv: linear(name("attn.qkv"))?,
                proj: linear(name("attn.proj"))?,
                norm2: norm(name("norm2"))?,
                fc1: linear(name("mlp.fc1"))?,
                fc2: linear(name("mlp.fc2"))?,
            })
        };
        Ok(Self {
            config: *config,
            patch_weight_DCHW: state.get("patch_embed.proj.weight")?,
            patch_bias_D: state.get("patch_embed.proj.bias")?,
            cls_token_11D: state.get("cls_token")?,
            pos_embed: PosEmbed::new(state.get("pos_embed")?, config.grid_side()),
            blocks: (0..config.depth).map(block).collect::<Result<_, _>>()?,
            checkpoint_blocks: 0,
            norm: norm("norm".into())?,
            tokens_kind: state.get("cls_token")?.kind(),
        })
    }

    /// Keeps the tokens between blocks in another dtype than that of the parameters: under autocast in its
    /// dtype, norms then read and write half as much.
    pub fn keep_tokens_in(&mut self, kind: Kind) {
        self.tokens_kind = kind;
    }

    /// From now on the first `blocks` blocks keep nothing for the backward pass but their input, and are
    /// computed again in it. Only for encoders that learn; it changes neither tokens nor, but for the
    /// rounding of autocast, gradients.
    pub fn set_checkpoint_blocks(&mut self, blocks: usize) {
        self.checkpoint_blocks = blocks;
    }

    /// Its sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Tokens `[N, S, D]` after the final norm, of images `[N, C, H, W]` whose sides are multiples
    /// of the patch.
    pub fn forward(&self, images_NCHW: &Tensor, drop_path: Option<&DropPath>) -> Tensor {
        self.encode(self.embed(images_NCHW, None), drop_path)
    }

    /// The `[CLS]` tokens `[N, D]` of [`Vit::forward`], without what the last block would compute for
    /// the other tokens alone.
    pub fn cls(&self, images_NCHW: &Tensor, drop_path: Option<&DropPath>) -> Tensor {
        self.encode_cls(self.embed(images_NCHW, None), drop_path)
    }

    /// The `[CLS]` tokens `[N, L, D]` after each of the last `L` blocks, all through the final norm,
    /// without what the last block would compute for the other tokens alone; the last one is that of
    /// [`Vit::cls`].
    ///
    /// # Panics
    /// If the encoder has fewer than `blocks` blocks, or `blocks` is 0.
    pub fn cls_of_last(&self, images_NCHW: &Tensor, blocks: usize) -> Tensor {
        let last = self.blocks.len() - 1;
        let first = self.blocks.len() - blocks;
        let mut tokens = self.run_blocks(self.embed(images_NCHW, None), first, None);
        let mut cls = Vec::with_capacity(blocks);
        for block in &self.blocks[first..last] {
            tokens = block.forward(tokens, self.config.heads, None);
            cls.push(tokens.narrow(1, 0, 1));
        }
        cls.push(self.blocks[last].forward_cls(&tokens, self.config.heads, None));
        self.norm.forward(&Tensor::cat(&cls, 1))
    }

    /// The `[CLS]` tokens `[N * K, D]` of every image with everything but one of its `K` objects
    /// masked.
    ///
    /// `masks_NKP` holds 1 on the object's patches and 0 elsewhere. The result is that of images
    /// multiplied by the mask, but each image is embedded once: a patch of zeros is embedded to the
    /// bias alone.
    pub fn cls_masked(
        &self,
        images_NCHW: &Tensor,
        masks_NKP: &Tensor,
        drop_path: Option<&DropPath>,
    ) -> Tensor {
        self.encode_cls(self.embed(images_NCHW, Some(masks_NKP)), drop_path)
    }

    /// Tokens of images, with queries and keys of the block that `layer` names.
    ///
    /// # Panics
    /// If the encoder has no block, or one alone and `layer` is [`TrackerLayer::SecondLast`].
    pub fn features(&self, images_NCHW: &Tensor, layer: TrackerLayer) -> Features {
        let tracker_block = self.blocks.len()
            - match layer {
                TrackerLayer::Last => 1,
                TrackerLayer::SecondLast => 2,
            };
        let mut tokens = self.embed(images_NCHW, None);
        let mut tracked = None;
        for (index, block) in self.blocks.iter().enumerate() {
            let qkv = block.project_qkv(&tokens, self.config.heads);
            tokens = block.finish(tokens, &qkv, None);
            if index == tracker_block {
                let [queries_NHSE, keys_NHSE, _] = qkv;
                tracked = Some((queries_NHSE, keys_NHSE));
            }
        }
        let (queries_NHSE, keys_NHSE) = tracked.expect("the encoder has the block that is named");
        Features { tokens_NSD: self.norm.forward(&tokens), queries_NHSE, keys_NHSE }
    }

    /// Tokens after each block, all through the final norm: what dense heads take.
    pub fn intermediate_tokens(
        &self,
        images_NCHW: &Tensor,
        drop_path: Option<&DropPath>,
    ) -> Vec<Tensor> {
        let mut tokens = self.embed(images_NCHW, None);
        let mut outputs = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            let scales = drop_path.map(|drop_path| drop_path.of_block(index));
            tokens = block.forward(tokens, self.config.heads, scales.as_ref());
            outputs.push(self.norm.forward(&tokens));
        }
        outputs
    }

    /// Patches embedded by a matrix product, `[CLS]` token in front, positions added.
    fn embed(&self, images_NCHW: &Tensor, masks_NKP: Option<&Tensor>) -> Tensor {
        let p = self.config.patch_px;
        let (n, c, height, width) = images_NCHW.size4().expect("images are [N, C, H, W]");
        let (rows, columns) = (height / p, width / p);
        let patches_NPX = images_NCHW
            .reshape([n, c, rows, p, columns, p])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([n, rows * columns, c * p * p]);
        let weight_DX = self.patch_weight_DCHW.flatten(1, 3);
        let embedded_NPD = match masks_NKP {
            None => patches_NPX.linear(&weight_DX, Some(&self.patch_bias_D)),
            Some(masks_NKP) => {
                let whole = patches_NPX.linear(&weight_DX, None::<Tensor>);
                let masks_NKP1 = masks_NKP.to_kind(whole.kind()).unsqueeze(-1);
                (whole.unsqueeze(1) * masks_NKP1).flatten(0, 1) + &self.patch_bias_D
            }
        };
        let pos_embed_1SD = self.pos_embed.for_grid(rows, columns);
        let cls_11D = &self.cls_token_11D + pos_embed_1SD.narrow(1, 0, 1);
        let patches_NPD = embedded_NPD + pos_embed_1SD.narrow(1, 1, rows * columns);
        let cls_N1D = cls_11D.expand([patches_NPD.size()[0], 1, self.config.width], false);
        let [cls_N1D, patches_NPD] =
            [cls_N1D, patches_NPD].map(|tokens| tokens.to_kind(self.tokens_kind));
        Tensor::cat(&[cls_N1D, patches_NPD], 1)
    }

    fn encode(&self, tokens: Tensor, drop_path: Option<&DropPath>) -> Tensor {
        let tokens = self.run_blocks(tokens, self.blocks.len(), drop_path);
        self.norm.forward(&tokens)
    }

    fn encode_cls(&self, tokens: Tensor, drop_path: Option<&DropPath>) -> Tensor {
        let last = self.blocks.len() - 1;
        let tokens = self.run_blocks(tokens, last, drop_path);
        let cls_N1D = self.run_block(last, tokens, drop_path, Block::forward_cls);
        self.norm.forward(&cls_N1D.squeeze_dim(1))
    }

    fn run_blocks(&self, mut tokens: Tensor, count: usize, drop_path: Option<&DropPath>) -> Tensor {
        for index in 0..count {
            tokens = self.run_block(index, tokens, drop_path, |block, tokens, heads, scales| {
                block.forward(tokens.shallow_clone(), heads, scales)
            });
        }
        tokens
    }

    /// One of a block's forward passes, which backward computes again if it is one of those that are.
    fn run_block(
        &self,
        index: usize,
        tokens: Tensor,
        drop_path: Option<&DropPath>,
        forward: fn(&Block, &Tensor, i64, Option<&[Tensor; 2]>) -> Tensor,
    ) -> Tensor {
        let (block, heads) = (&self.blocks[index], self.config.heads);
        let scales = drop_path.map(|drop_path| drop_path.of_block(index));
        if index >= self.checkpoint_blocks {
            return forward(block, &tokens, heads, scales.as_ref());
        }
        let same = block.shallow_clone();
        let again = move |tokens: &Tensor| forward(&same, tokens, heads, scales.as_ref());
        // As tch's operations do, whose errors have no other way out of a forward pass either.
        checkpoint(&tokens, &block.params(), again).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl VitConfig {
    /// The sizes of ViT-Ti, S and B (3, 6 and 12 heads of 64) for images of 224 px.
    pub fn standard(heads: i64, patch_px: i64) -> Self {
        let width = HEAD_WIDTH * heads;
        Self { patch_px, width, depth: 12, heads, mlp_ratio: 4, image_px: 224, norm_eps: NORM_EPS }
    }

    /// The sizes that parameters have. Heads are those of every ViT of this family: of width 64.
    ///
    /// # Errors
    /// If a tensor that every ViT has is missing or of a shape that none has.
    pub fn infer(state: &StateDict) -> Result<Self, StateError> {
        let unfit = |name: &str, found: &[i64], why: &'static str| StateError::Unfit {
            name: name.to_owned(),
            found: found.to_vec(),
            why,
        };
        let name = "patch_embed.proj.weight";
        let found = state.get(name)?.size();
        let &[width, 3, patch_px, columns] = found.as_slice() else {
            return Err(unfit(name, &found, "[width, 3, patch, patch]"));
        };
        if patch_px != columns || patch_px == 0 {
            return Err(unfit(name, &found, "[width, 3, patch, patch]"));
        }
        if width == 0 || width % HEAD_WIDTH != 0 {
            return Err(unfit(name, &found, "a width of whole heads of 64"));
        }
        let name = "pos_embed";
        let found = state.get(name)?.size();
        let side = match found.as_slice() {
            &[1, tokens, d] if d == width && tokens > 1 => ((tokens - 1) as f64).sqrt() as i64,
            _ => 0,
        };
        if side == 0 || found[1] != side * side + 1 {
            return Err(unfit(name, &found, "[1, 1 + side * side, width]"));
        }
        let name = "blocks.0.mlp.fc1.weight";
        let found = state.get(name)?.size();
        let mlp_ratio = match found.as_slice() {
            &[hidden, d] if d == width && hidden > 0 && hidden % width == 0 => hidden / width,
            _ => return Err(unfit(name, &found, "[mlp_ratio * width, width]")),
        };
        let has_block = |index: i64| state.get(&format!("blocks.{index}.norm1.weight")).is_ok();
        let depth = (0..).take_while(|&index| has_block(index)).count() as i64;
        let (heads, image_px) = (width / HEAD_WIDTH, side * patch_px);
        Ok(Self { patch_px, width, depth, heads, mlp_ratio, image_px, norm_eps: NORM_EPS })
    }

    /// Patches on a side of the image that the position embedding is learned for.
    pub fn grid_side(&self) -> i64 {
        self.image_px / self.patch_px
    }

    pub(crate) fn parameter_shapes(&self) -> Vec<ParameterShape> {
        let (d, hidden) = (self.width, self.width * self.mlp_ratio);
        let side = self.grid_side();
        let mut shapes: Vec<ParameterShape> = vec![
            ("cls_token".into(), vec![1, 1, d]),
            ("pos_embed".into(), vec![1, side * side + 1, d]),
            ("patch_embed.proj.weight".into(), vec![d, 3, self.patch_px, self.patch_px]),
            ("patch_embed.proj.bias".into(), vec![d]),
            ("norm.weight".into(), vec![d]),
            ("norm.bias".into(), vec![d]),
        ];
        for index in 0..self.depth {
            let layers: [(&str, &[i64]); 6] = [
                ("norm1", &[d]),
                ("attn.qkv", &[3 * d, d]),
                ("attn.proj", &[d, d]),
                ("norm2", &[d]),
                ("mlp.fc1", &[hidden, d]),
                ("mlp.fc2", &[d, hidden]),
            ];
            for (layer, weight) in layers {
                shapes.push((format!("blocks.{index}.{layer}.weight"), weight.to_vec()));
                shapes.push((format!("blocks.{index}.{layer}.bias"), vec![weight[0]]));
            }
        }
        shapes
    }
}

impl DropPath {
    /// Draws the branches that `images` images skip, with a rate that grows linearly over the
    /// blocks up to `rate`; each image draws on its own.
    pub fn draw(rate: f64, depth: i64, images: i64, rng: &mut impl Rng, device: Device) -> Self {
        let factors = Self::draw_factors(rate, depth, images, rng);
        Self::new(&Tensor::from_slice(&factors).to_device(device), depth)
    }

    /// The factors of [`DropPath::draw`] on the host.
    pub fn draw_factors(rate: f64, depth: i64, images: i64, rng: &mut impl Rng) -> Vec<f32> {
        let mut factors = Vec::with_capacity((2 * depth * images) as usize);
        for block in 0..depth {
            let keep = 1.0 - rate * block as f64 / (depth - 1).max(1) as f64;
            let draw = || if rng.random_bool(keep) { (1.0 / keep) as f32 } else { 0.0 };
            factors.extend(std::iter::repeat_with(draw).take(2 * images as usize));
        }
        factors
    }

    /// Stochastic depth by drawn factors, float32 `[2 * depth * N]`; storage is shared.
    pub fn new(factors: &Tensor, depth: i64) -> Self {
        Self { scales_RN: factors.view([2 * depth, -1]) }
    }

    /// Factors of a block's attention and MLP branch, each `[N, 1, 1]`.
    fn of_block(&self, index: usize) -> [Tensor; 2] {
        [0, 1].map(|branch| self.scales_RN.get(2 * index as i64 + branch).reshape([-1, 1, 1]))
    }
}

impl Block {
    /// Another over the same tensors.
    fn shallow_clone(&self) -> Self {
        Self {
            norm1: self.norm1.shallow_clone(),
            qkv: self.qkv.shallow_clone(),
            proj: self.proj.shallow_clone(),
            norm2: self.norm2.shallow_clone(),
            fc1: self.fc1.shallow_clone(),
            fc2: self.fc2.shallow_clone(),
        }
    }

    fn params(&self) -> Vec<&Tensor> {
        let Self { norm1, qkv, proj, norm2, fc1, fc2 } = self;
        let norms = [norm1, norm2].into_iter().flat_map(|norm| [&norm.weight, &norm.bias]);
        let linears = [qkv, proj, fc1, fc2].into_iter().flat_map(|l| [&l.weight, &l.bias]);
        norms.chain(linears).collect()
    }

    fn forward(&self, tokens: Tensor, heads: i64, scales: Option<&[Tensor; 2]>) -> Tensor {
        let qkv = self.project_qkv(&tokens, heads);
        self.finish(tokens, &qkv, scales)
    }

    /// The block's `[CLS]` tokens `[N, 1, D]`: all tokens give keys and values, one asks.
    fn forward_cls(&self, tokens: &Tensor, heads: i64, scales: Option<&[Tensor; 2]>) -> Tensor {
        let normed = self.norm1.forward(tokens);
        let d = tokens.size()[2];
        let part = |input: &Tensor, first: i64, count: i64| {
            let (weight, bias) = (&self.qkv.weight, &self.qkv.bias);
            input.linear(
                &weight.narrow(0, first * d, count * d),
                Some(&bias.narrow(0, first * d, count * d)),
            )
        };
        let queries = part(&normed.narrow(1, 0, 1), 0, 1);
        let [keys, values] = split(&part(&normed, 1, 2));
        let qkv = [queries, keys, values].map(|part| by_head(&part, heads));
        self.finish(tokens.narrow(1, 0, 1), &qkv, scales)
    }

    /// Queries, keys and values, each `[N, H, S, E]`.
    fn project_qkv(&self, tokens: &Tensor, heads: i64) -> [Tensor; 3] {
        let qkv: [Tensor; 3] = split(&self.qkv.forward(&self.norm1.forward(tokens)));
        qkv.map(|part| by_head(&part, heads))
    }

    /// The rest of the block once queries, keys and values are there.
    fn finish(
        &self,
        tokens: Tensor,
        [queries, keys, values]: &[Tensor; 3],
        scales: Option<&[Tensor; 2]>,
    ) -> Tensor {
        let attended = Tensor::scaled_dot_product_attention(
            queries,
            keys,
            values,
            None::<Tensor>,
            0.0,
            false,
            None,
            false,
        );
        let attention = self.proj.forward(&attended.transpose(1, 2).flatten(2, 3));
        let tokens = add_branch(tokens, attention, scales.map(|s| &s[0]));
        let hidden = self.fc1.forward(&self.norm2.forward(&tokens)).gelu("none");
        let mlp = self.fc2.forward(&hidden);
        add_branch(tokens, mlp, scales.map(|s| &s[1]))
    }
}

fn add_branch(tokens: Tensor, branch: Tensor, scale_N11: Option<&Tensor>) -> Tensor {
    match scale_N11 {
        // Under autocast libtorch would make a copy of the branch in the dtype of the tokens.
        Some(scale_N11) => without_autocast(|| tokens.addcmul(&branch, scale_N11)),
        None => tokens + branch,
    }
}

/// `[N, S, P * D]` to `P` of `[N, S, D]`, whose gradients are put together by one copy.
fn split<const P: usize>(parts: &Tensor) -> [Tensor; P] {
    let width = parts.size()[2] / P as i64;
    parts.split(width, 2).try_into().expect("a width of whole parts")
}

/// `[N, S, D]` to `[N, H, S, E]`, without a copy.
fn by_head(tokens: &Tensor, heads: i64) -> Tensor {
    let (n, s, d) = tokens.size3().expect("tokens are [N, S, D]");
    tokens.reshape([n, s, heads, d / heads]).transpose(1, 2)
}

impl Linear {
    fn shallow_clone(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        input.linear(&self.weight, Some(&self.bias))
    }
}

impl LayerNorm {
    fn shallow_clone(&self) -> Self {
        let Self { weight, bias, eps } = self;
        Self { weight: weight.shallow_clone(), bias: bias.shallow_clone(), eps: *eps }
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        let (shape, kind) = (self.weight.size(), input.kind());
        if kind == self.weight.kind() {
            return input.layer_norm(shape, Some(&self.weight), Some(&self.bias), self.eps, true);
        }
        // Autocast would give float32.
        let [weight, bias] = [&self.weight, &self.bias].map(|param| param.to_kind(kind));
        without_autocast(|| input.layer_norm(shape, Some(weight), Some(bias), self.eps, true))
    }
}
