//! What was measured, as JSON and as a table.

use dora_eval::encoder::rate::{matrix_side, median};
use dora_model::Arch;
use serde::{Serialize, Serializer};
use tch::Device;

use super::{
    flops::StepFlops,
    setting::{Setting, Step},
};
use crate::plan::StepImages;

/// The figures of one setting.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Median of the timed steps.
    step_seconds: f64,
    clips_per_s: f64,
    images_per_s: f64,
    /// In the precision of the step; the higher of the rates before and after the steps.
    matrix_flops_per_s: f64,
    share_of_matrix_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    with_loader: Option<WithLoader>,
    #[serde(serialize_with = "as_map")]
    parts: Parts,
    device: String,
    threads: i32,
    precision: &'static str,
    arch: Arch,
    out_dim: i64,
    /// Clips of a step, over all its batches.
    clips: usize,
    flops_per_step: f64,
    steps_timed: usize,
    #[serde(skip)]
    seen: Seen,
}

/// Steps with batches from frame stores, as training takes them.
#[derive(Debug, Serialize)]
struct WithLoader {
    /// Median of these steps.
    step_seconds: f64,
    /// Median of the seconds of such a step for each second of the step before it, whose batch was there.
    ratio: f64,
    /// Median of the seconds of a step in which it waited for its batches.
    data_seconds: f64,
}

/// Seconds by part, in the order of a step.
pub(super) type Parts = Vec<(&'static str, f64)>;

/// Two settings whose steps took turns.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    base: Report,
    compared: Report,
    /// Seconds of the base's step for each second of the other's.
    ratio: f64,
}

/// What only the table tells.
#[derive(Debug)]
struct Seen {
    fastest_s: f64,
    slowest_s: f64,
    matrix_side: i64,
    /// In float32 and in the step's precision, each time they were measured.
    rates: Vec<[f64; 2]>,
}

/// A line of the table.
struct Row {
    name: String,
    text: String,
    /// What two settings can be compared by.
    value: Option<f64>,
}

impl Report {
    /// The figures of a setting whose steps are all timed.
    pub(super) fn new(setting: &Setting<'_>, peak_memory_bytes: Option<i64>) -> Self {
        let recipe = setting.recipe;
        let batches = recipe.train.gradient_accumulation_steps;
        let clips = recipe.train.clips * batches;
        let images = StepImages::new(recipe).total() * batches as i64;
        let flops_per_step = StepFlops::new(recipe).total();
        let step_seconds = median(&setting.step_s);
        let matrix_flops_per_s = setting.rates.iter().map(|[_, own]| *own).fold(0.0, f64::max);
        let device = setting.placement.device;
        Self {
            step_seconds,
            clips_per_s: clips as f64 / step_seconds,
            images_per_s: images as f64 / step_seconds,
            matrix_flops_per_s,
            share_of_matrix_rate: flops_per_step / step_seconds / matrix_flops_per_s,
            peak_memory_bytes,
            with_loader: WithLoader::new(&setting.step_s, &setting.fed),
            parts: setting.parts.clone(),
            device: match device {
                Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            },
            threads: tch::get_num_threads(),
            precision: setting.precision(),
            arch: recipe.model.arch,
            out_dim: recipe.model.out_dim,
            clips,
            flops_per_step,
            steps_timed: setting.step_s.len(),
            seen: Seen {
                fastest_s: setting.step_s.iter().copied().fold(f64::INFINITY, f64::min),
                slowest_s: setting.step_s.iter().copied().fold(0.0, f64::max),
                matrix_side: matrix_side(device),
                rates: setting.rates.clone(),
            },
        }
    }

    /// The table of this setting.
    pub(super) fn table(&self) -> String {
        let rows = self.rows().into_iter().map(|row| vec![row.name, row.text]);
        columns(rows.collect()) + note(self.is_noisy())
    }

    /// Whether something else must have run: what should be alike is not.
    fn is_noisy(&self) -> bool {
        const ALIKE: f64 = 1.2;
        let Seen { slowest_s, rates, .. } = &self.seen;
        let lowest = rates.iter().map(|[_, own]| *own).fold(f64::INFINITY, f64::min);
        *slowest_s > ALIKE * self.step_seconds || self.matrix_flops_per_s > ALIKE * lowest
    }

    fn rows(&self) -> Vec<Row> {
        let Seen { fastest_s, slowest_s, matrix_side, rates } = &self.seen;
        let number = |name: &str, value: f64, text: String| Row {
            name: name.to_owned(),
            text,
            value: Some(value),
        };
        let word = |name: &str, text: String| Row { name: name.to_owned(), text, value: None };
        let each_rate = |which: usize| {
            let rates: Vec<String> = rates.iter().map(|rate| tera(rate[which])).collect();
            format!("{} TFLOP/s", rates.join(" and "))
        };
        let mut rows = vec![
            word("device", format!("{}, {} threads", self.device, self.threads)),
            word("encoder", self.arch.name().to_owned()),
            word("out_dim", self.out_dim.to_string()),
            word("precision", self.precision.to_owned()),
            word("clips in a step", self.clips.to_string()),
            number("step", self.step_seconds, format!("{:.3} s", self.step_seconds)),
            word("  of", format!("{} from {fastest_s:.3} to {slowest_s:.3} s", self.steps_timed)),
            number("clips/s", self.clips_per_s, format!("{:.3}", self.clips_per_s)),
            number("images/s", self.images_per_s, format!("{:.1}", self.images_per_s)),
            number(
                "products of a step",
                self.flops_per_step,
                format!("{} TFLOP", tera(self.flops_per_step)),
            ),
            number("matrix rate", self.matrix_flops_per_s, each_rate(1)),
            word("  of", format!("{matrix_side} x {matrix_side}, before and after")),
        ];
        if self.precision != "float32" {
            rows.push(word("  in float32", each_rate(0)));
        }
        let share = self.share_of_matrix_rate;
        rows.push(number("share of it reached", share, format!("{share:.3}")));
        if let Some(bytes) = self.peak_memory_bytes {
            let gibibytes = bytes as f64 / (1i64 << 30) as f64;
            rows.push(number("peak memory", bytes as f64, format!("{gibibytes:.2} GiB")));
        }
        if let Some(WithLoader { step_seconds, ratio, data_seconds }) = &self.with_loader {
            rows.extend([
                number("step with loader", *step_seconds, format!("{step_seconds:.3} s")),
                number("  of the step alone", *ratio, format!("{ratio:.3}")),
                number("  waiting for data", *data_seconds, format!("{data_seconds:.4} s")),
            ]);
        }
        let whole: f64 = self.parts.iter().map(|(_, seconds)| seconds).sum();
        rows.extend(self.parts.iter().map(|(part, seconds)| {
            let share = 100.0 * seconds / whole;
            number(part, *seconds, format!("{seconds:.3} s {share:5.1} %"))
        }));
        rows
    }
}

impl WithLoader {
    /// `None` if there were no such steps.
    fn new(step_s: &[f64], fed: &[Step]) -> Option<Self> {
        let each = |value: fn(&Step) -> f64| fed.iter().map(value).collect::<Vec<_>>();
        let ratios = fed.iter().zip(step_s).map(|(step, alone_s)| step.seconds / alone_s);
        (!fed.is_empty()).then(|| Self {
            step_seconds: median(&each(|step| step.seconds)),
            ratio: median(&ratios.collect::<Vec<_>>()),
            data_seconds: median(&each(|step| step.waited_s)),
        })
    }
}

impl Comparison {
    pub(super) fn new(base: Report, compared: Report) -> Self {
        let ratio = base.step_seconds / compared.step_seconds;
        Self { base, compared, ratio }
    }

    /// The table of both, and each figure of the base in multiples of the other's. `title` says what
    /// differs.
    pub(super) fn table(&self, title: &str) -> String {
        let mut others = self.compared.rows();
        let mut table = vec![["", "base", title, "base / that"].map(str::to_owned).to_vec()];
        for row in self.base.rows() {
            let at = others.iter().position(|other| other.name == row.name);
            let other = at.map(|at| others.remove(at));
            let ratio = row.value.zip(other.as_ref().and_then(|other| other.value));
            table.push(vec![
                row.name,
                row.text,
                other.map(|other| other.text).unwrap_or_default(),
                ratio.map(|(base, other)| format!("{:.2}", base / other)).unwrap_or_default(),
            ]);
        }
        table.extend(others.into_iter().map(|row| vec![row.name, String::new(), row.text]));
        columns(table) + note(self.base.is_noisy() || self.compared.is_noisy())
    }
}

fn note(is_noisy: bool) -> &'static str {
    if is_noisy {
        "the steps or the matrix rates differ by more than a fifth: let nothing else run and measure again\n"
    } else {
        ""
    }
}

/// Lines of cells, each column as wide as its widest cell.
pub(super) fn columns(table: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for row in &table {
        let cells = row.iter().enumerate();
        let padded = cells.map(|(at, cell)| format!("{cell:0$}", width(at).unwrap_or(0)));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
}

fn as_map<S: Serializer>(parts: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().copied())
}

fn tera(flops: f64) -> String {
    format!("{:.3}", flops / 1e12)
}
