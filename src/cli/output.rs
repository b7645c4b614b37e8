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

/// A bar while weights load; nothing where stderr is not a terminal.
pub struct LoadBar(ProgressBar);

impl LoadBar {
    pub fn new(quiet: bool) -> Self {
        if quiet {
            return LoadBar(ProgressBar::hidden());
        }
        let template = "{msg} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        LoadBar(ProgressBar::new(0).with_style(style).with_message("loading"))
    }

    pub fn show(&mut self, progress: &Progress) -> Result<()> {
        self.0.set_length(progress.total);
        self.0.set_position(progress.loaded);
        if progress.stage == Stage::Ready {
            self.0.finish_and_clear();
        }
        Ok(())
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
