//! What people see on stderr.

use crate::engine::{Progress, Stage};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::{Cell, RefCell};
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

/// A bar while a model comes and its weights load; nothing where stderr is not a terminal. Why a load begins anew is
/// said in any case. Clones are the same bar.
#[derive(Clone)]
pub struct LoadBar(Rc<Inner>);

struct Inner {
    bar: ProgressBar,
    stage: Cell<Option<Stage>>,
    restarted: RefCell<Option<String>>,
    quiet: bool,
}

impl LoadBar {
    pub fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let (stage, restarted) = (Cell::new(None), RefCell::new(None));
        LoadBar(Rc::new(Inner { bar, stage, restarted, quiet }))
    }

    pub fn show(&self, progress: &Progress) -> Result<()> {
        let Inner { bar, stage, restarted, quiet } = &*self.0;
        if *restarted.borrow() != progress.restarted {
            restarted.replace(progress.restarted.clone());
            if let (Some(why), false) = (&progress.restarted, quiet) {
                bar.suspend(|| say!("{why}; loading the model again"));
            }
        }
        // Weights load while they come: then it is the coming that takes time.
        let coming = stage.get() == Some(Stage::Download) && bar.position() < bar.length().unwrap_or(0);
        if progress.stage == Stage::Load && coming {
            return Ok(());
        }
        bar.set_length(progress.total);
        if stage.replace(Some(progress.stage)) != Some(progress.stage) {
            let (verb, counts) = match progress.stage {
                Stage::Compile => ("compiling kernels for", "{pos}/{len}"),
                Stage::Download => ("fetching", "{bytes}/{total_bytes} {bytes_per_sec} {eta}"),
                Stage::Load | Stage::Ready => ("loading", "{bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            };
            let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {counts}"));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            // What was there before says nothing about the speed.
            bar.set_position(progress.loaded);
            bar.reset_eta();
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
