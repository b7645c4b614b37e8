//! How far a load is.

use serde::Serialize;
use web_time::Instant;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// A file comes over the network.
    Download,
    /// Weights go to the device.
    Load,
    /// Done.
    Ready,
}

/// A report to the one who waits.
#[derive(Debug, Clone, Serialize)]
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
        }
    }
}
