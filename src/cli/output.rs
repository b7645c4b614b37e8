//! What people see on stderr.

use crate::engine::{Progress, Stage};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// A line on stderr. Nothing is lost where nobody reads it; `eprintln!` would panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(super) use say;

pub fn print_error(error: &Error) {
    say!("error: {error}");
}

/// A bar while weights load; nothing where stderr is not a terminal. Why a load begins anew is said in any case.
pub struct LoadBar {
    bar: ProgressBar,
    stage: Option<Stage>,
    restarted: Option<String>,
    quiet: bool,
}

impl LoadBar {
    pub fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        LoadBar { bar, stage: None, restarted: None, quiet }
    }

    pub fn show(&mut self, progress: &Progress) -> Result<()> {
        if progress.restarted != self.restarted {
            self.restarted.clone_from(&progress.restarted);
            if let Some(why) = self.restarted.as_ref().filter(|_| !self.quiet) {
                self.bar.suspend(|| say!("{why}; loading the model again"));
            }
        }
        if self.stage.replace(progress.stage) != Some(progress.stage) {
            let (message, counts) = match progress.stage {
                Stage::Compile => ("compiling", "{pos}/{len} kernels"),
                _ => ("loading", "{bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            };
            let style = ProgressStyle::with_template(&format!("{{msg}} {{bar:32}} {counts}"));
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar.set_message(message);
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.loaded);
        if progress.stage == Stage::Ready {
            self.bar.finish_and_clear();
        }
        Ok(())
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
