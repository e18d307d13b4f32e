//! The table: figures and speeds of every row, and how each run ended.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context;
use serde_json::{Map, Value as Json, json};

use super::{
    judge::{Answer, Protocol, RANDOM},
    plan::{Plan, Run},
};
use crate::process::{print, say};

/// Steps at a run's end that its row is the mean of.
const LAST_STEPS: usize = 50;

/// The values of a row's answers in one column.
struct Cell {
    values: Vec<f64>,
    speeds: Vec<f64>,
}

/// Puts the answers together, writes `table.md` and `table.json`, and prints the first.
pub(super) fn tell(plan: &Plan, runs: &[Run], answers: &[Answer]) -> anyhow::Result<()> {
    let protocols: Vec<&Protocol> = plan.tasks.iter().map(|task| task.protocol).collect();
    let mut text = String::from("| encoder |");
    for Protocol { figure: (_, column), speed: (_, unit), .. } in &protocols {
        let _ = write!(text, " {column} | {unit} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|---|".repeat(protocols.len()));
    let mut figures = Map::new();
    let names = plan.variants.iter().map(|variant| variant.name.as_str());
    for row in [RANDOM].into_iter().chain(names) {
        let _ = write!(text, "| {row} |");
        let mut cells = Map::new();
        for protocol in &protocols {
            let Cell { values, speeds } = cell(answers, row, protocol)?;
            let (mean, deviation) = mean_and_deviation(&values);
            let deviated = deviation.map(|by| format!(" ± {by:.1}")).unwrap_or_default();
            let speed = median(speeds);
            let _ = write!(text, " {mean:.1}{deviated} | {speed:.1} |");
            let (column, unit) = (protocol.figure.1, protocol.speed.1);
            cells.insert(
                column.into(),
                json!({ "mean": mean, "deviation": deviation, "seeds": values, unit: speed }),
            );
        }
        text.push('\n');
        figures.insert(row.into(), cells.into());
    }
    let rates = answers.iter().map(|answer| read(answer)?.number(answer.protocol.matrix_rate));
    let matrix_flops_per_s = median(rates.collect::<anyhow::Result<_>>()?);
    let seeds = plan.seeds.len();
    let _ = writeln!(
        text,
        "\nIn percent: the mean and the standard deviation over {seeds} seed(s). Speeds are medians; matrices were\n\
         multiplied at {:.3} TFLOP/s meanwhile.\n",
        matrix_flops_per_s / 1e12
    );
    text.push_str(
        "| run | steps | median step | loss | teacher's entropy | of its mean answer | objects' IoU |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let _ = writeln!(text, "{}", training_row(run)?);
    }
    let json = json!({ "figures": figures, "matrix_flops_per_s": matrix_flops_per_s });
    for (name, content) in [("table.md", text.clone()), ("table.json", format!("{json:#}\n"))] {
        let path = plan.out.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    print(&text);
    say!("tables in {}", plan.out.display());
    Ok(())
}

/// What one answer says, and where.
struct Figures<'a>(Json, &'a Path);

impl Figures<'_> {
    fn number(&self, pointer: &str) -> anyhow::Result<f64> {
        let value = self.0.pointer(pointer).and_then(Json::as_f64);
        value.with_context(|| format!("`{}` has no {pointer}", self.1.display()))
    }
}

fn read(answer: &Answer) -> anyhow::Result<Figures<'_>> {
    let path = &answer.path;
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let json = serde_json::from_str(&text);
    Ok(Figures(json.with_context(|| format!("`{}` is no JSON", path.display()))?, path))
}

fn cell(answers: &[Answer], row: &str, protocol: &Protocol) -> anyhow::Result<Cell> {
    let mut cell = Cell { values: Vec::new(), speeds: Vec::new() };
    let of_cell = |answer: &&Answer| answer.row == row && answer.protocol.name == protocol.name;
    for answer in answers.iter().filter(of_cell) {
        let figures = read(answer)?;
        cell.values.push(100.0 * figures.number(protocol.figure.0)?);
        cell.speeds.push(figures.number(protocol.speed.0)?);
    }
    Ok(cell)
}

/// The end of a run's `metrics.jsonl`, as a row.
fn training_row(run: &Run) -> anyhow::Result<String> {
    let path = run.dir.join("metrics.jsonl");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines: Vec<Json> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_STEPS)..];
    let mean = |key: &str| {
        let values: Vec<f64> = last.iter().filter_map(|line| line[key].as_f64()).collect();
        match values.len() {
            0 => "-".to_owned(),
            count => format!("{:.2}", values.iter().sum::<f64>() / count as f64),
        }
    };
    Ok(format!(
        "| {} | {} | {:.2} s | {} | {} | {} | {} |",
        run.name(),
        lines.len(),
        median(lines.iter().filter_map(|line| line["step_s"].as_f64()).collect()),
        mean("loss"),
        mean("teacher_entropy"),
        mean("teacher_mean_entropy"),
        mean("mask_iou"),
    ))
}

/// The middle one, or the mean of the middle two; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = [values.len().saturating_sub(1) / 2, values.len() / 2];
    let sum: Option<f64> = middle.iter().map(|&at| values.get(at)).sum();
    sum.map_or(f64::NAN, |sum| sum / 2.0)
}

/// The sample's standard deviation, where there are at least two.
fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_needs_two() {
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, None));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, Some(2.0_f64.sqrt())));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
