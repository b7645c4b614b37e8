//! How far a load is.

use crate::Result;
use serde::Serialize;
use std::cell::Cell;
use web_time::Instant;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(ts_rs::TS))]
pub enum Stage {
    /// A file comes over the network.
    Download,
    /// The GPU's kernels are compiled and tested: [`Progress::kernels`] counts them.
    Compile,
    /// Weights go to the device.
    Load,
    /// Done.
    Ready,
}

/// The GPU's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Kernels {
    /// Those that are ready.
    pub compiled: usize,
    /// All that the model needs.
    pub total: usize,
}

/// A report to the one who waits. Over one load the bytes never go backwards, and their total stays what it is once it is
/// known: see [`Steady`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "LoadProgress", optional_fields))]
pub struct Progress {
    /// What is going on.
    #[cfg_attr(test, ts(inline))]
    pub stage: Stage,
    /// The file's name; of a split model the first one's.
    pub file: String,
    /// Bytes of the model's files that are done with.
    pub loaded: u64,
    /// Bytes of all its files; 0 while nobody knows.
    pub total: u64,
    /// 0 to 1.
    pub progress: f64,
    /// Mean since the start; what was there before does not count.
    pub bytes_per_second: f64,
    /// Seconds left at that speed; absent until it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// How far the GPU's kernels are, while they are compiled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(inline))]
    pub kernels: Option<Kernels>,
    /// Why this is not the first time: a GPU that failed or was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted: Option<String>,
}

/// Turns byte counts into reports.
pub struct Meter {
    file: String,
    total: u64,
    before: u64,
    start: Instant,
}

impl Meter {
    /// Starts the clock. `total` is 0 if nobody knows it.
    pub fn new(file: &str, total: u64) -> Self {
        Meter { file: file.to_owned(), total, before: 0, start: Instant::now() }
    }

    /// Goes on where `before` bytes were there at the start.
    pub fn resumed(self, before: u64) -> Self {
        Meter { before, ..self }
    }

    /// The report when `loaded` bytes are there.
    pub fn at(&self, stage: Stage, loaded: u64) -> Progress {
        // Tensors that nobody reads make the sum inexact.
        let loaded = if self.total == 0 { loaded } else { loaded.min(self.total) };
        let seconds = self.start.elapsed().as_secs_f64();
        let came = loaded.saturating_sub(self.before);
        let bytes_per_second = if seconds > 0.0 { came as f64 / seconds } else { 0.0 };
        Progress {
            stage,
            file: self.file.clone(),
            loaded,
            total: self.total,
            progress: if self.total == 0 { 0.0 } else { loaded as f64 / self.total as f64 },
            bytes_per_second,
            eta_seconds: (bytes_per_second > 0.0 && self.total > 0)
                .then(|| (self.total - loaded) as f64 / bytes_per_second),
            kernels: None,
            restarted: None,
        }
    }
}

/// Makes one account of the reports of one load, whoever sends them: what comes over the network, what goes to the device,
/// what is done a second time. Bytes that were reported stay reported, and the first total that is known counts.
#[derive(Debug, Default)]
pub struct Steady {
    loaded: Cell<u64>,
    total: Cell<u64>,
}

impl Steady {
    /// The report as it follows those before it.
    pub fn follow(&self, report: Progress) -> Progress {
        if self.total.get() == 0 {
            self.total.set(report.total);
        }
        let total = self.total.get();
        let reported = match report.stage {
            Stage::Ready => total,
            _ if total == 0 => report.loaded,
            _ => report.loaded.min(total),
        };
        let loaded = reported.max(self.loaded.get());
        self.loaded.set(loaded);
        let progress = match (report.stage, total) {
            (Stage::Ready, _) => 1.0,
            (_, 0) => 0.0,
            _ => loaded as f64 / total as f64,
        };
        Progress { loaded, total, progress, ..report }
    }
}

/// Reports of one load of a source, which may begin anew on another device.
pub(super) struct Reporter<'a> {
    meter: Meter,
    steady: Steady,
    /// Bytes of the files beside the weights, which count as soon as the header was read.
    before: u64,
    /// Whether anybody has heard of this load.
    begun: bool,
    restarted: Option<String>,
    progress: &'a mut dyn FnMut(Progress) -> Result<()>,
}

impl<'a> Reporter<'a> {
    /// For the `len` bytes of `file`.
    pub(crate) fn new(
        file: &str,
        len: u64,
        restarted: Option<String>,
        progress: &'a mut dyn FnMut(Progress) -> Result<()>,
    ) -> Self {
        let (meter, steady) = (Meter::new(file, len), Steady::default());
        Reporter { meter, steady, before: 0, begun: false, restarted, progress }
    }

    pub(crate) fn restarted(&self) -> Option<String> {
        self.restarted.clone()
    }

    /// The header says that `weights` of the bytes go to the device.
    pub(crate) fn expect(&mut self, weights: u64) {
        self.before = self.meter.total.saturating_sub(weights);
        self.restart_clock();
    }

    /// What follows is done on another device, which is news only where something was reported before.
    pub(crate) fn restart(&mut self, why: &str) {
        self.restart_clock();
        if self.begun {
            self.restarted = Some(why.to_owned());
        }
    }

    /// `bytes` of the weights are on the device.
    pub(crate) fn loaded(&mut self, bytes: u64) -> Result<()> {
        self.begun = true;
        self.tell(self.meter.at(Stage::Load, self.before.saturating_add(bytes)))
    }

    /// `compiled` of `total` kernels are ready.
    pub(crate) fn compiled(&mut self, compiled: usize, total: usize) -> Result<()> {
        self.begun = true;
        let report = self.meter.at(Stage::Compile, self.before);
        let kernels = Some(Kernels { compiled, total });
        let result = self.tell(Progress { bytes_per_second: 0.0, eta_seconds: None, kernels, ..report });
        self.restart_clock();
        result
    }

    /// It has begun, and nothing is read yet.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.tell(self.meter.at(Stage::Load, 0))
    }

    pub(crate) fn ready(&mut self) -> Result<()> {
        self.tell(self.meter.at(Stage::Ready, self.meter.total))
    }

    /// The speed is that of the weights on their way to this device.
    fn restart_clock(&mut self) {
        self.meter = Meter::new(&self.meter.file, self.meter.total).resumed(self.before);
    }

    fn tell(&mut self, report: Progress) -> Result<()> {
        let report = Progress { restarted: self.restarted.clone(), ..report };
        (self.progress)(self.steady.follow(report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_load_has_one_account() {
        let steady = Steady::default();
        let told = |meter: &Meter, stage, loaded| {
            let Progress { loaded, total, progress, .. } = steady.follow(meter.at(stage, loaded));
            (loaded, total, progress)
        };
        let (unknown, files, weights) = (Meter::new("a", 0), Meter::new("a", 100), Meter::new("b", 80));
        assert_eq!(told(&unknown, Stage::Download, 10), (10, 0, 0.0));
        assert_eq!(told(&files, Stage::Download, 50), (50, 100, 0.5));
        assert_eq!(told(&files, Stage::Download, 20), (50, 100, 0.5));
        assert_eq!(told(&weights, Stage::Load, 60), (60, 100, 0.6));
        assert_eq!(told(&files, Stage::Compile, 3), (60, 100, 0.6));
        assert_eq!(told(&weights, Stage::Ready, 80), (100, 100, 1.0));
        // Nobody ever told how much there is.
        let steady = Steady::default();
        assert_eq!(steady.follow(unknown.at(Stage::Ready, 0)).progress, 1.0);
    }
}
