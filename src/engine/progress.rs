//! How far a load is.

use crate::Result;
use serde::Serialize;
use web_time::Instant;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// A file comes over the network.
    Download,
    /// The GPU's kernels are compiled and tested: `loaded` and `total` count them.
    Compile,
    /// Weights go to the device.
    Load,
    /// Done.
    Ready,
}

/// A report to the one who waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is going on.
    pub stage: Stage,
    /// The file's name.
    pub file: String,
    /// Bytes.
    pub loaded: u64,
    /// Bytes; 0 while nobody knows.
    pub total: u64,
    /// 0 to 1.
    pub progress: f64,
    /// Mean since the start; what was there before does not count.
    pub bytes_per_second: f64,
    /// Seconds left at that speed; absent until it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
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
            restarted: None,
        }
    }
}

/// Reports of one load, which may begin anew on another device.
pub(super) struct Reporter<'a> {
    meter: Meter,
    restarted: Option<String>,
    progress: &'a mut dyn FnMut(Progress) -> Result<()>,
}

impl<'a> Reporter<'a> {
    /// For `weights` bytes of `file`.
    pub fn new(
        file: &str,
        weights: u64,
        restarted: Option<String>,
        progress: &'a mut dyn FnMut(Progress) -> Result<()>,
    ) -> Self {
        Reporter { meter: Meter::new(file, weights), restarted, progress }
    }

    pub fn restarted(&self) -> Option<String> {
        self.restarted.clone()
    }

    /// What follows begins from nothing.
    pub fn restart(&mut self, why: &str) {
        self.meter = Meter::new(&self.meter.file, self.meter.total);
        self.restarted = Some(why.to_owned());
    }

    pub fn at(&mut self, stage: Stage, loaded: u64) -> Result<()> {
        let report = self.meter.at(stage, loaded);
        (self.progress)(Progress { restarted: self.restarted.clone(), ..report })
    }

    /// `made` of `total` kernels are compiled.
    pub fn compiled(&mut self, made: usize, total: usize) -> Result<()> {
        let report = Meter::new(&self.meter.file, total as u64).at(Stage::Compile, made as u64);
        let report = Progress { bytes_per_second: 0.0, eta_seconds: None, ..report };
        let result = (self.progress)(Progress { restarted: self.restarted.clone(), ..report });
        // Uploading has its own clock.
        self.meter = Meter::new(&self.meter.file, self.meter.total);
        result
    }
}
