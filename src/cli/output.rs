//! What people see on stderr.

use crate::engine::{Progress, Stage};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::rc::Rc;

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

/// A bar while a model comes and its weights load; nothing where stderr is not a terminal. Clones are the same bar.
#[derive(Clone)]
pub struct LoadBar(Rc<Inner>);

struct Inner {
    bar: ProgressBar,
    stage: Cell<Option<Stage>>,
}

impl LoadBar {
    pub fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        LoadBar(Rc::new(Inner { bar: bar.with_style(style), stage: Cell::new(None) }))
    }

    pub fn show(&self, progress: &Progress) -> Result<()> {
        let Inner { bar, stage } = &*self.0;
        // Weights load while they come: then it is the coming that takes time.
        let coming = stage.get() == Some(Stage::Download) && bar.position() < bar.length().unwrap_or(0);
        if progress.stage == Stage::Load && coming {
            return Ok(());
        }
        bar.set_length(progress.total);
        if stage.replace(Some(progress.stage)) != Some(progress.stage) {
            // What was there before says nothing about the speed.
            bar.set_position(progress.loaded);
            bar.reset_eta();
            let verb = if progress.stage == Stage::Download { "fetching" } else { "loading" };
            bar.set_message(format!("{verb} {}", progress.file));
        }
        bar.set_position(progress.loaded);
        if progress.stage == Stage::Ready {
            bar.finish_and_clear();
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
