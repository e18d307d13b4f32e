//! Operations in an encoder's matrix products: a product of an `m x k` with a `k x n` matrix is
//! `2 m k n`; norms, softmax and GELU are not counted.

use crate::VitConfig;

impl VitConfig {
    /// One image's patches to tokens.
    pub fn embed_flops(&self, patches: f64) -> f64 {
        2.0 * patches * (3 * self.patch_px * self.patch_px * self.width) as f64
    }

    /// One image of so many patches through so many blocks.
    pub fn blocks_flops(&self, blocks: i64, patches: f64) -> f64 {
        let tokens = patches + 1.0;
        blocks as f64 * (self.keys_flops(tokens) + self.queries_flops(tokens, tokens))
    }

    /// One image of so many patches through all blocks to its `[CLS]` token, which alone asks in the
    /// last.
    pub fn cls_flops(&self, patches: f64) -> f64 {
        let tokens = patches + 1.0;
        let last = self.keys_flops(tokens) + self.queries_flops(1.0, tokens);
        self.blocks_flops(self.depth - 1, patches) + last
    }

    /// Keys and values of a block.
    fn keys_flops(&self, tokens: f64) -> f64 {
        2.0 * tokens * (self.width * 2 * self.width) as f64
    }

    /// What a block computes for those tokens that ask: queries; scores, and the values that they
    /// weigh, all heads together as wide as a token; projection; the two layers of the MLP.
    fn queries_flops(&self, asking: f64, tokens: f64) -> f64 {
        let linear = (self.width * self.width * (1 + 1 + 2 * self.mlp_ratio)) as f64;
        2.0 * asking * (linear + 2.0 * tokens * self.width as f64)
    }
}
