//! Where a step's time goes by kernel: a trace of a few steps, and what its events add up to.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use torch_ext::profile;

use super::setting::Setting;

/// Steps in a trace.
const STEPS: usize = 2;

/// Lines of the table; the file has all.
const SHOWN: usize = 15;

/// The files of a profile.
#[derive(Debug)]
pub(super) struct ProfileFolder(PathBuf);

/// What ran in a step, as `kernels.json` holds it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Steps in the trace.
    pub steps: usize,
    /// Kernels and copies of a GPU by their time on it; without one, operators by the time spent in
    /// themselves and not in others that they call.
    pub kernels: Vec<Row>,
    /// CUDA calls of the host, by their time: launches, copies, waits. None without a GPU.
    pub host_calls: Vec<Row>,
}

/// One name, over all steps.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row {
    /// Kernel, copy, operator or CUDA call.
    pub name: String,
    /// How often it ran.
    pub calls: usize,
    /// How long in all, in microseconds.
    pub total_us: f64,
    /// Of the time of all rows.
    pub share: f64,
}

/// What is read of a Chrome trace.
#[derive(Deserialize)]
struct Trace {
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    tid: serde_json::Value,
}

impl ProfileFolder {
    /// Makes the folder, before anything slow starts.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| {
            format!("cannot make the folder `{}`; give --profile another", path.display())
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Traces steps of a setting into `trace.json`, and writes their sums into `kernels.json`.
    pub(super) fn fill(&self, setting: &mut Setting<'_>) -> anyhow::Result<Profile> {
        let trace = self.0.join("trace.json");
        profile(setting.placement.device, &trace, || {
            (0..STEPS).try_for_each(|_| setting.step(false).map(drop))
        })?;
        let read =
            fs::read(&trace).with_context(|| format!("no trace in `{}`", trace.display()))?;
        let profile = Profile::parse(&read)
            .with_context(|| format!("`{}` is no Chrome trace", trace.display()))?;
        let path = self.0.join("kernels.json");
        let json = serde_json::to_string_pretty(&profile).context("cannot write JSON")? + "\n";
        fs::write(&path, json).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(profile)
    }
}

impl Profile {
    /// Sums up a Chrome trace of steps.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(trace: &[u8]) -> serde_json::Result<Self> {
        let Trace { events } = serde_json::from_slice(trace)?;
        let of =
            |kinds: &[&str]| events.iter().filter(|event| kinds.contains(&&*event.cat)).collect();
        let on_gpu: Vec<&Event> = of(&["kernel", "gpu_memcpy", "gpu_memset"]);
        let durations =
            |events: Vec<&Event>| rows(events.iter().map(|event| (&*event.name, event.dur)));
        let kernels = if on_gpu.is_empty() {
            rows(self_times(of(&["cpu_op"])).into_iter())
        } else {
            durations(on_gpu)
        };
        let host_calls = durations(of(&["cuda_runtime", "cuda_driver"]));
        Ok(Self { steps: STEPS, kernels, host_calls })
    }

    /// The rows that take longest, for people.
    pub fn table(&self) -> Vec<Vec<String>> {
        let head = ["kernel", "calls", "ms a step", "share"].map(str::to_owned).to_vec();
        let row = |row: &Row| {
            let steps = self.steps as f64;
            vec![
                row.name.chars().take(60).collect(),
                format!("{:.0}", row.calls as f64 / steps),
                format!("{:.3}", row.total_us / steps / 1e3),
                format!("{:.1} %", 100.0 * row.share),
            ]
        };
        [head].into_iter().chain(self.kernels.iter().take(SHOWN).map(row)).collect()
    }
}

/// One row for each name, the longest first.
fn rows<'a>(times: impl Iterator<Item = (&'a str, f64)>) -> Vec<Row> {
    let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for (name, us) in times {
        let (calls, sum) = sums.entry(name).or_default();
        *calls += 1;
        *sum += us;
    }
    let whole: f64 = sums.values().map(|(_, us)| us).sum();
    let row = |(name, (calls, total_us)): (&str, (usize, f64))| Row {
        name: name.to_owned(),
        calls,
        total_us,
        share: if whole > 0.0 { total_us / whole } else { 0.0 },
    };
    let mut rows: Vec<Row> = sums.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.total_us.total_cmp(&a.total_us));
    rows
}

/// Each event's time less that of the events within it on its thread.
fn self_times(mut events: Vec<&Event>) -> Vec<(&str, f64)> {
    let thread = |event: &Event| event.tid.to_string();
    events.sort_by(|a, b| {
        thread(a).cmp(&thread(b)).then(a.ts.total_cmp(&b.ts)).then(b.dur.total_cmp(&a.dur))
    });
    let mut times: Vec<(&str, f64)> = Vec::with_capacity(events.len());
    // The events around the present one: index, thread, end.
    let mut around: Vec<(usize, String, f64)> = Vec::new();
    for event in events {
        let thread = thread(event);
        while around.pop_if(|(_, other, end)| *other != thread || *end <= event.ts).is_some() {}
        if let Some((outer, ..)) = around.last() {
            times[*outer].1 -= event.dur;
        }
        around.push((times.len(), thread, event.ts + event.dur));
        times.push((&event.name, event.dur));
    }
    times
}
