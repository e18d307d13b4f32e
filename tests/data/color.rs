//! Colour jitter, grey and solarisation against plain formulas.
//!
//! The numbers come from this script, for the pixels of [`image`] and the arguments in the tests:
//!
//! ```python
//! import colorsys
//! def clamp(v): return min(max(v,0.0),1.0)
//! def luma(p): return 0.2989*p[0]+0.587*p[1]+0.114*p[2]
//! def blend(img,other,f): return [tuple(clamp(f*a+(1-f)*b) for a,b in zip(p,q)) for p,q in zip(img,other)]
//! def brightness(img,f): return blend(img,[(0,)*3]*len(img),f)
//! def contrast(img,f):
//!     m=sum(map(luma,img))/len(img); return blend(img,[(m,)*3]*len(img),f)
//! def saturation(img,f): return blend(img,[(luma(p),)*3 for p in img],f)
//! def hue(img,t):
//!     out=[]
//!     for p in img:
//!         h,s,v=colorsys.rgb_to_hsv(*p); out.append(colorsys.hsv_to_rgb((h+t)%1,s,v))
//!     return out
//! ```

use dora_data::augment::color::Jitter::{self, Brightness, Contrast, Hue, Saturation};
use dora_data::augment::color::{grey, jitter, solarize};
use tch::Tensor;

/// Three rows of three pixels: colours of every sextant of the hue, greys and black.
fn image() -> Tensor {
    #[rustfmt::skip]
    let pixels = [
        0.9, 0.2, 0.1,  0.1, 0.8, 0.3,   0.2, 0.3, 0.7,
        0.5, 0.5, 0.5,  0.6, 0.6, 0.1,   0.0, 0.0, 0.0,
        0.7, 0.1, 0.7,  1.0, 0.95, 0.9,  0.3, 0.9, 0.9f32,
    ];
    to_CNHW(&pixels)
}

fn to_CNHW(pixels: &[f32]) -> Tensor {
    Tensor::from_slice(pixels).view([9, 3]).tr().contiguous().view([3, 1, 3, 3])
}

fn check(changes: &[Jitter], expected: &[f32; 27]) {
    let changed = jitter(image(), &[changes.to_vec()]);
    let worst = (changed - to_CNHW(expected)).abs().max().double_value(&[]);
    assert!(worst < 2e-6, "{changes:?}: {worst}");
}

#[test]
fn each_change_matches_its_formula() {
    check(&[Brightness(1.3)], &BRIGHTNESS);
    check(&[Contrast(1.4)], &CONTRAST);
    check(&[Saturation(0.8)], &SATURATION);
    check(&[Hue(0.1)], &HUE_FORTH);
    check(&[Hue(-0.5)], &HUE_OPPOSITE);
}

#[test]
fn changes_come_in_their_order() {
    check(&[Hue(-0.07), Contrast(1.3), Brightness(0.7), Saturation(1.2)], &MIXED);
    check(&[Brightness(1.4), Saturation(1.2), Hue(0.1), Contrast(0.6)], &MIXED_OTHERWISE);
}

#[test]
fn each_image_has_its_own_changes() {
    let changes = [
        vec![Hue(-0.07), Contrast(1.3), Brightness(0.7), Saturation(1.2)],
        vec![],
        vec![Brightness(1.4), Saturation(1.2), Hue(0.1), Contrast(0.6)],
        vec![Saturation(0.3)],
    ];
    let expected: Vec<_> =
        changes.iter().map(|list| jitter(image(), std::slice::from_ref(list))).collect();
    let changed = jitter(image().repeat([1, 4, 1, 1]), &changes);
    assert!(changed.allclose(&Tensor::cat(&expected, 1), 0.0, 1e-6, false));
    assert!(changed.narrow(1, 1, 1).equal(&image()), "an image without changes stays as it is");
}

#[test]
fn neutral_changes_change_nothing() {
    let changes = [Brightness(1.0), Contrast(1.0), Saturation(1.0), Hue(0.0), Hue(1.0)];
    assert!(jitter(image(), &[changes.to_vec()]).allclose(&image(), 0.0, 2e-6, false));
}

#[test]
fn grey_and_solarisation_match_their_formulas() {
    let greyed = grey(&image());
    let [red, green, blue] = [0, 1, 2].map(|c| greyed.get(c).get(0));
    assert!(red.equal(&green) && red.equal(&blue));
    // The first pixel is (0.9, 0.2, 0.1).
    let expected = 0.2989 * 0.9 + 0.587 * 0.2 + 0.114 * 0.1;
    assert!((red.double_value(&[0, 0]) - expected).abs() < 1e-6);

    let values: Vec<f32> = Vec::try_from(image().view([27])).unwrap();
    let invert = |value: f32| if value >= 128.0 / 255.0 { 1.0 - value } else { value };
    let inverted: Vec<_> = values.into_iter().map(invert).collect();
    assert!(solarize(&image()).equal(&Tensor::from_slice(&inverted).view([3, 1, 3, 3])));
}

#[rustfmt::skip]
const BRIGHTNESS: [f32; 27] = [
    1.0, 0.26, 0.13, 0.13, 1.0, 0.39, 0.26, 0.39, 0.91,
    0.65, 0.65, 0.65, 0.78, 0.78, 0.13, 0.0, 0.0, 0.0,
    0.91, 0.13, 0.91, 1.0, 1.0, 1.0, 0.39, 1.0, 1.0,
];
#[rustfmt::skip]
const CONTRAST: [f32; 27] = [
    1.0, 0.08811, 0.0, 0.0, 0.92811, 0.22811, 0.08811, 0.22811, 0.78811,
    0.50811, 0.50811, 0.50811, 0.64811, 0.64811, 0.0, 0.0, 0.0, 0.0,
    0.78811, 0.0, 0.78811, 1.0, 1.0, 1.0, 0.22811, 1.0, 1.0,
];
#[rustfmt::skip]
const SATURATION: [f32; 27] = [
    0.799562, 0.239562, 0.159562, 0.186738, 0.746738, 0.346738, 0.223136, 0.303136, 0.623136,
    0.49999, 0.49999, 0.49999, 0.588588, 0.588588, 0.188588, 0.0, 0.0, 0.0,
    0.629546, 0.149546, 0.629546, 0.99183, 0.95183, 0.91183, 0.384114, 0.864114, 0.864114,
];
#[rustfmt::skip]
const HUE_FORTH: [f32; 27] = [
    0.9, 0.68, 0.1, 0.1, 0.8, 0.72, 0.4, 0.2, 0.7,
    0.5, 0.5, 0.5, 0.3, 0.6, 0.1, 0.0, 0.0, 0.0,
    0.7, 0.1, 0.34, 0.99, 1.0, 0.9, 0.3, 0.54, 0.9,
];
#[rustfmt::skip]
const HUE_OPPOSITE: [f32; 27] = [
    0.1, 0.8, 0.9, 0.8, 0.1, 0.6, 0.7, 0.6, 0.2,
    0.5, 0.5, 0.5, 0.1, 0.1, 0.6, 0.0, 0.0, 0.0,
    0.1, 0.7, 0.1, 0.9, 0.95, 1.0, 0.9, 0.3, 0.3,
];
#[rustfmt::skip]
const MIXED: [f32; 27] = [
    0.793397, 0.0, 0.203764, 0.01649, 0.678242, 0.0, 0.041388, 0.379908, 0.587388,
    0.357886, 0.357886, 0.357886, 0.481558, 0.252238, 0.0, 0.0, 0.0, 0.0,
    0.341797, 0.0, 0.616981, 0.700014, 0.700014, 0.700014, 0.107131, 0.736076, 0.487147,
];
#[rustfmt::skip]
const MIXED_OTHERWISE: [f32; 27] = [
    0.82966, 0.707778, 0.272954, 0.249253, 0.82966, 0.799098, 0.548287, 0.378226, 0.82966,
    0.649669, 0.649669, 0.649669, 0.440847, 0.743247, 0.239247, 0.22966, 0.22966, 0.22966,
    0.82966, 0.272042, 0.495089, 0.82966, 0.82966, 0.82966, 0.432876, 0.59159, 0.82966,
];
