//! Encoder and projection head.

use dora_core::tracker::cls_attention;
use dora_model::{Network, TrackerLayer};
use tch::{Kind, no_grad};

use super::{FORWARD, Golden, check, network_config, network_weights};
use crate::device;

#[test]
fn encoder_and_head_match() {
    let (vit, head) = (Golden::read("vit"), Golden::read("head"));
    let config = network_config(&vit, &head);
    let weights = network_weights(&vit, &head);
    let network = Network::new(&config, &weights, device(), Kind::Float, false).unwrap();
    let all_heads: Vec<i64> = (0..config.vit.heads).collect();
    let frames_BTCHW = vit.get("frames_BTCHW");
    no_grad(|| {
        for t in 0..frames_BTCHW.size()[1] {
            let frame = frames_BTCHW.select(1, t);
            let features = network.backbone.features(&frame, TrackerLayer::Last);
            let expected = |name: &str| vit.get(&format!("{name}_{t}"));
            check("tokens", &features.tokens_NSD, &expected("tokens"), FORWARD);
            check("queries", &features.queries_NHSE, &expected("q"), FORWARD);
            check("keys", &features.keys_NHSE, &expected("k"), FORWARD);
            let cls = cls_attention(&features.queries_NHSE, &features.keys_NHSE, &all_heads);
            let attn_BHSS = expected("attn");
            let patches = attn_BHSS.size()[3] - 1;
            check("[CLS] rows", &cls, &attn_BHSS.select(2, 0).narrow(2, 1, patches), FORWARD);
        }
        let first = frames_BTCHW.select(1, 0);
        for (index, tokens) in network.backbone.intermediate_tokens(&first, None).iter().enumerate()
        {
            check("intermediate", tokens, &vit.get(&format!("inter_{index}")), FORWARD);
        }
        let crops = vit.get("local_LBTCHW").select(2, 0).flatten(0, 1);
        let local = network.backbone.forward(&crops, None);
        check("local crops", &local, &vit.get("local_tokens"), FORWARD);
        let wide = network.backbone.features(&vit.get("wide_BCHW"), TrackerLayer::Last);
        check("wide image", &wide.tokens_NSD, &vit.get("wide_tokens"), FORWARD);
        let cls = cls_attention(&wide.queries_NHSE, &wide.keys_NHSE, &all_heads);
        let patches = cls.size()[2];
        let expected = vit.get("wide_attn").select(2, 0).narrow(2, 1, patches);
        check("[CLS] rows of a wide image", &cls, &expected, FORWARD);
        check("head", &network.head.forward(&head.get("x"), 1.0), &head.get("logits"), FORWARD);
    });
}
