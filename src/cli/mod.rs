//! The command line: `run`, `chat`, `bench`, `logits`, `tokenize`, `render`, `info`; `pull`, `list`, `rm`, `verify`
//! for the cache; `provider` for hosted models.
//!
//! Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage.

mod arguments;
mod bench;
mod chat;
mod hosted;
mod inspect;
mod models;
mod output;
mod providers;
mod run;

use crate::engine::{Device, Engine, Options};
use crate::hub::{self, Spec};
use crate::model::gguf::Header;
use crate::store::{Source, open_file};
use crate::{Error, Result};
use arguments::{Cli, Command, Common};
use clap::Parser;
use output::{LoadBar, print_error, say};
use std::path::Path;
use std::process::ExitCode;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(threads) = cli.common.threads {
        // SAFETY: nothing else runs yet. candle's thread pool reads this when it starts.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    }
    // Mesa's Vulkan layer complains on stderr where there is no desktop.
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: as above.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
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
async fn load(model: &str, common: &Common) -> Result<Engine> {
    let device: Device = common.device.parse()?;
    let options = Options { device, context: common.ctx };
    let bar = LoadBar::new(common.quiet);
    let mut progress = |progress| bar.show(&progress);
    let engine = match models::named(model)? {
        Spec::Path(path) => {
            let source = open_file(path.as_ref())?;
            Engine::load(source.as_ref(), &options, &mut progress).await?
        }
        spec => {
            let model = models::open(&spec, common, &bar).await?;
            hub::load(&model, &options, &mut progress).await?
        }
    };
    drop(bar);
    if common.verbose {
        let info = engine.info();
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        say!(
            "{}: {} {}, {:.1} M parameters, context {} of {}, on the {} ({}); weights {:.1} MB, KV cache {:.1} MB",
            info.name,
            info.architecture,
            info.quantization,
            info.parameters as f64 / 1e6,
            info.context_length,
            info.trained_context_length,
            info.device,
            info.device_reason,
            megabytes(info.memory.weights),
            megabytes(info.memory.kv_cache),
        );
    }
    Ok(engine)
}

/// The header alone: for commands that need no weights.
async fn read_header(model: &str, common: &Common) -> Result<(Box<dyn Source>, Header)> {
    let source: Box<dyn Source> = match models::named(model)? {
        Spec::Path(path) => open_file(path.as_ref())?,
        spec => models::from_environment(common)?.peek(&spec).await?,
    };
    let header = Header::read(source.as_ref()).await?;
    Ok((source, header))
}

/// A text file as it is.
fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)
        .map_err(|error| Error::invalid_argument(format!("cannot read {}: {error}", path.display())))?;
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid_argument(format!("{} is not valid UTF-8 text", path.display())))
}

fn read_stdin() -> Result<String> {
    std::io::read_to_string(std::io::stdin())
        .map_err(|error| Error::invalid_argument(format!("cannot read standard input: {error}")))
}
