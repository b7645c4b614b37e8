//! The command line: `run`, `chat`, `embed`, `bench`, `logits`, `tokenize`, `render`, `info`; `pull`, `list`, `rm`, `verify`
//! for the cache; `provider` for hosted models.
//!
//! Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage.

mod answer;
mod arguments;
mod bench;
mod chat;
mod embed;
mod inspect;
mod models;
mod output;
mod providers;
mod run;
mod session;
mod settings;

use crate::engine::{Device, Engine, Options};
use crate::format::gguf::Header;
use crate::load::{self, Named};
use crate::store::{Source, no_file, open_file};
use crate::{Error, Result};
use arguments::{Cli, Command, Common};
use clap::Parser;
use output::{LoadBar, print_error, say};
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// The longest text that a file or standard input may have, in bytes: larger than any context.
const MAX_INPUT: u64 = 64 << 20;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Mesa's Vulkan layer complains on stderr where there is no desktop.
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: nothing else runs yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    // A file that grows past the user's limit is an error like others, and not the process's end.
    #[cfg(unix)]
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    match pollster::block_on(dispatch(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            print_error(&Error::internal(format!("cannot write the output: {error}")));
            ExitCode::FAILURE
        }
        Err(Failure::Error(error)) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended early.
enum Failure {
    Error(Error),
    /// Writing to stdout failed.
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Output(error)
    }
}

type Outcome = std::result::Result<(), Failure>;

async fn dispatch(cli: &Cli) -> Outcome {
    let common = &cli.common;
    match &cli.command {
        Command::Run(arguments) => run::run(arguments, common).await,
        Command::Chat(arguments) => chat::chat(arguments, common).await,
        Command::Embed(arguments) => embed::embed(arguments, common).await,
        Command::Bench(arguments) => bench::bench(arguments, common).await,
        Command::Logits(arguments) => inspect::logits(arguments, common).await,
        Command::Tokenize(arguments) => inspect::tokenize(arguments, common).await,
        Command::Render(arguments) => inspect::render(arguments, common).await,
        Command::Info(arguments) => inspect::info(arguments, common).await,
        Command::Pull(arguments) => models::pull(arguments, common).await,
        Command::List(arguments) => models::list(arguments, common).await,
        Command::Rm(arguments) => models::rm(arguments, common).await,
        Command::Verify(arguments) => models::verify(arguments, common).await,
        Command::Provider(command) => providers::provider(command, common).await,
    }
}

/// Loads a model with a bar on stderr, from a file, the cache or the network.
async fn load(model: &OsStr, common: &Common) -> Result<Engine> {
    load_with(model, common, options(common)?).await
}

/// The same with other options than the command line's.
async fn load_with(model: &OsStr, common: &Common, options: Options) -> Result<Engine> {
    let bar = LoadBar::new(common.quiet);
    let models = || models::from_environment(common);
    let engine = load::load(model, models, &options, models::reporter(&bar)).await?;
    drop(bar);
    warn(&engine.info().warnings, common);
    if let Some(note) = engine.info().context_note.as_ref().filter(|_| !common.quiet) {
        say!("{note}");
    }
    if common.verbose {
        let info = engine.info();
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        say!(
            "{}: {} {}, {:.1} M parameters, context {} of {}, on the {}{} ({}); weights {:.1} MB, KV cache {:.1} MB",
            info.name,
            info.architecture,
            info.quantization,
            info.parameters as f64 / 1e6,
            info.context_length,
            info.trained_context_length,
            info.device,
            info.threads.map_or_else(String::new, |threads| format!(" with {threads} threads")),
            info.device_reason,
            megabytes(info.memory.weights),
            megabytes(info.memory.kv_cache),
        );
        #[cfg(feature = "gpu")]
        if let Some(gpu) = &info.gpu {
            say!("{} ({}): {}{}", gpu.adapter, gpu.backend, gpu.variants.join(", "), self_test(gpu));
        }
    }
    Ok(engine)
}

/// Says what in a file was passed over.
fn warn(warnings: &[String], common: &Common) {
    for warning in warnings.iter().filter(|_| !common.quiet) {
        say!("warning: {warning}");
    }
}

/// What the self-test found, in words.
#[cfg(feature = "gpu")]
fn self_test(gpu: &crate::backend::GpuInfo) -> String {
    let Some(test) = &gpu.self_test else { return String::new() };
    let when = if test.cached { "earlier" } else { "now" };
    let mut text = format!("; self-test passed ({when}), ready after {:.0} ms", test.milliseconds);
    for off in &test.off {
        text += &format!("; without {}, because {}", off.variant.name(), off.reason);
    }
    text
}

fn options(common: &Common) -> Result<Options> {
    let device: Device = common.device.parse()?;
    #[cfg_attr(not(feature = "gpu"), allow(unused_mut, reason = "only a GPU has options of its own"))]
    let mut options = Options {
        device,
        context: common.ctx,
        threads: common.threads,
        kv_8bit: common.kv == "8bit",
        ..Options::default()
    };
    #[cfg(feature = "gpu")]
    {
        options.gpu.disable = common.gpu_disable.clone();
    }
    Ok(options)
}

/// The header alone: for commands that need no weights.
async fn read_header(model: &OsStr, common: &Common) -> Result<(Box<dyn Source>, Header)> {
    let source: Box<dyn Source> = match Named::of(model, || models::from_environment(common))? {
        Named::File(path) => open_file(&path)?,
        Named::Elsewhere(spec, models) => Box::new(models.peek(&spec).await?),
    };
    let header = Header::read(source.as_ref()).await?;
    Ok((source, header))
}

/// A text file as it is. Of what is no file only what the shell has opened for us, as in `-f <(command)`.
fn read_text(path: &Path) -> Result<String> {
    let describe = |error| Error::invalid_argument(format!("cannot read {}: {error}", path.display()));
    let is_open = ["/dev/fd", "/dev/stdin", "/proc/self/fd"].iter().any(|open| path.starts_with(open));
    if let Some(kind) = no_file(&path.metadata().map_err(describe)?).filter(|_| !is_open) {
        return Err(Error::invalid_argument(format!("cannot read {}: it is {kind}", path.display())));
    }
    read_bounded(File::open(path).map_err(describe)?, path.display())
}

fn read_stdin() -> Result<String> {
    read_bounded(std::io::stdin(), "standard input")
}

/// All of a text, which `name` stands for in messages.
fn read_bounded(from: impl Read, name: impl Display) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::invalid_argument(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        let megabytes = MAX_INPUT >> 20;
        return Err(Error::invalid_argument(format!("{name} is longer than {megabytes} MB of text")));
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid_argument(format!("{name} is not valid UTF-8 text")))
}
