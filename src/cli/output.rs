//! What people see. Names, errors and answers are made by files and servers: their control characters, which could move
//! the cursor, set the window's title or answer for the user, are written as JSON has them (`\u001b`) and never reach a
//! terminal as they are.

use crate::progress::{Progress, Stage};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::path::Path;
use std::rc::Rc;

/// A line on stderr. Nothing is lost where nobody reads it; `eprintln!` would panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let text = format!($($text)*);
        let _ = writeln!(std::io::stderr(), "{}", crate::cli::output::shown(&text));
    }};
}
pub(super) use say;

/// `text` as a terminal may have it: of control characters only tabs and the ends of lines stay.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    // All others begin with one of these bytes.
    let harmless = |byte: u8| matches!(byte, b'\n' | b'\t' | b' '..=b'~' | 0x80..=0xC1 | 0xC3..);
    if text.bytes().all(harmless) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let stays = match character {
            '\n' | '\t' => true,
            // Alone it would have the next text written over this line.
            '\r' => characters.peek() == Some(&'\n'),
            _ => !character.is_control(),
        };
        if stays {
            shown.push(character);
        } else {
            let _ = write!(shown, "\\u{:04x}", character as u32);
        }
    }
    shown.into()
}

/// Writes a file, readable for the user alone; what was there before stays until all of it is written.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    renamed.inspect_err(|_| _ = fs::remove_file(&temporary))
}

/// Standard output, for text that people or programs read: JSON stays the same JSON.
pub(super) fn stdout() -> Stdout {
    Stdout(std::io::stdout().lock())
}

/// Takes whole characters at a time, as `write!` and `write_all` with a text give them.
pub(super) struct Stdout(StdoutLock<'static>);

impl Stdout {
    pub(super) fn is_terminal(&self) -> bool {
        self.0.is_terminal()
    }

    /// Without a change where it goes to a file or a program, which may compare each byte.
    pub(super) fn write_exact(&mut self, text: &str) -> std::io::Result<()> {
        match self.is_terminal() {
            true => self.write_all(text.as_bytes()),
            false => self.0.write_all(text.as_bytes()),
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(shown(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

pub(super) fn print_error(error: &Error) {
    say!("error: {error}");
}

/// A bar while a model comes and its weights load; nothing where stderr is not a terminal. Why a load begins anew is
/// said in any case. Clones are the same bar.
#[derive(Clone)]
pub(super) struct LoadBar(Rc<Inner>);

struct Inner {
    bar: ProgressBar,
    stage: Cell<Option<Stage>>,
    restarted: RefCell<Option<String>>,
    quiet: bool,
}

impl LoadBar {
    pub(super) fn new(quiet: bool) -> Self {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let (stage, restarted) = (Cell::new(None), RefCell::new(None));
        LoadBar(Rc::new(Inner { bar, stage, restarted, quiet }))
    }

    pub(super) fn show(&self, progress: &Progress) -> Result<()> {
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
        let (done, all) = match progress.kernels {
            Some(kernels) => (kernels.compiled as u64, kernels.total as u64),
            None => (progress.loaded, progress.total),
        };
        bar.set_length(all);
        if stage.replace(Some(progress.stage)) != Some(progress.stage) {
            let (verb, counts) = match progress.stage {
                Stage::Compile => ("compiling kernels for", "{pos}/{len}"),
                Stage::Download => ("fetching", "{bytes}/{total_bytes} {bytes_per_sec} {eta}"),
                Stage::Load | Stage::Ready => ("loading", "{bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            };
            let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {counts}"));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            // What was there before says nothing about the speed.
            bar.set_position(done);
            bar.reset_eta();
            bar.set_message(format!("{verb} {}", shown(&progress.file)));
        }
        bar.set_position(done);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        for (text, expected) in [
            ("Süße Grüße: 你好 🌍\n\tÂ\u{a0}.", "Süße Grüße: 你好 🌍\n\tÂ\u{a0}."),
            ("\u{1b}]0;pwn\u{7}\u{1b}[2J", "\\u001b]0;pwn\\u0007\\u001b[2J"),
            ("a\u{9b}31mb\u{7f}\u{0}", "a\\u009b31mb\\u007f\\u0000"),
            ("good\r\nover\rwritten\r", "good\r\nover\\u000dwritten\\u000d"),
        ] {
            assert_eq!(shown(text), expected);
        }
        // JSON says the same afterwards.
        let value = serde_json::json!({ "a\u{9b}\\": "\u{7f}\u{1b}\r\u{85}" });
        let text = value.to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown(&text)).unwrap(), value);
    }
}
