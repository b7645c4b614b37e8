//! Commands for the cache: `pull`, `list`, `rm`, `verify`; and how the others find a model by name.

use super::Outcome;
use super::arguments::{Common, ListArguments, PullArguments, RmArguments, VerifyArguments};
use super::output::{LoadBar, say, stdout};
use crate::http::Token;
use crate::hub::{Client, Model, Models, Report, Spec, Verdict};
use crate::remote::OnRetry;
use crate::store::{FolderStore, Source};
use crate::{Error, Result};
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What a MODEL names.
pub enum Named {
    /// One on this disk.
    File(PathBuf),
    /// One to be fetched, or in the cache.
    Elsewhere(Spec),
}

/// What a name means; where there is a file of that name, it is that. A path need not be text.
pub fn named(model: &OsStr) -> Result<Named> {
    // A link that leads nowhere is a file, too.
    let is_name = Path::new(model).symlink_metadata().is_err();
    let Some(name) = model.to_str().filter(|_| is_name) else {
        return Ok(Named::File(model.into()));
    };
    Ok(match client(None)?.name(name)? {
        Spec::Path(path) => Named::File(path.into()),
        spec => Named::Elsewhere(spec),
    })
}

/// The Hub, as `HF_ENDPOINT` says where it is.
fn client(token: Option<Token>) -> Result<Client> {
    Client::new(variable("HF_ENDPOINT").as_deref(), token)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The user's cache, and the Hub as the user's other tools see it.
pub fn from_environment(common: &Common) -> Result<Models> {
    let token = common.token.clone().or_else(|| Token::from_environment(&FolderStore::home()));
    // What huggingface_hub takes for true.
    let yes = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
    let offline = common.offline || variable("HF_HUB_OFFLINE").is_some_and(yes);
    let quiet = common.quiet;
    let on_retry = OnRetry::new(move |retry| {
        if !quiet {
            let wait = retry.wait_ms as f64 / 1e3;
            say!("{}; attempt {} follows in {wait:.1} s", retry.message, retry.attempt + 1);
        }
    });
    let client = client(token)?.offline(offline).hearing(on_retry);
    Ok(Models::new(client, Rc::new(FolderStore::from_environment())))
}

/// The model of that name, from the cache or, while it is read, from the network.
pub async fn open(spec: &Spec, common: &Common, bar: &LoadBar) -> Result<Model> {
    from_environment(common)?.open(spec, false, reporter(bar)).await
}

fn reporter(bar: &LoadBar) -> Report {
    let bar = bar.clone();
    Rc::new(move |progress| bar.show(&progress))
}

/// What can be fetched: no path counts.
fn fetched_name(models: &Models, model: &str) -> Result<Spec> {
    match models.name(model)? {
        Spec::Path(path) => Err(Error::invalid_argument(format!(
            "{path} is no name of a model that can be fetched. Give owner/repo[:QUANT] or an address"
        ))),
        spec => Ok(spec),
    }
}

pub async fn pull(arguments: &PullArguments, common: &Common) -> Outcome {
    let models = from_environment(common)?;
    for name in &arguments.models {
        let spec = fetched_name(&models, name)?;
        let bar = LoadBar::new(common.quiet);
        let model = models.pull(&spec, arguments.force, reporter(&bar)).await?;
        drop(bar);
        let mut stdout = stdout();
        for key in model.keys() {
            match key.is_of_url() {
                true => writeln!(stdout, "{}@{}", key.path, key.commit)?,
                false => writeln!(stdout, "{}/{}@{}", key.repo, key.path, key.commit)?,
            }
        }
        if common.verbose {
            say!("{}: {:.1} MB, verified", model.name(), model.len() as f64 / 1e6);
        }
    }
    Ok(())
}

pub async fn list(arguments: &ListArguments, common: &Common) -> Outcome {
    let cached = from_environment(common)?.list().await?;
    let mut stdout = stdout();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::json!({ "models": cached }))?;
        return Ok(());
    }
    for model in &cached {
        let megabytes = model.size as f64 / 1e6;
        let state = match model.complete {
            true => String::new(),
            false => format!("  {} % of it", model.stored * 100 / model.size.max(1)),
        };
        writeln!(stdout, "{megabytes:>9.1} MB  {}  {}{state}", &model.commit[..12], model.model)?;
    }
    if cached.is_empty() {
        say!("The cache is empty. `candlewick pull owner/repo` fetches a model.");
    }
    Ok(())
}

pub async fn rm(arguments: &RmArguments, common: &Common) -> Outcome {
    let models = from_environment(common)?;
    let mut freed = 0;
    for name in &arguments.models {
        let spec = models.name(name)?;
        let cached = models.cached(&spec).await?;
        freed += models.remove(&spec).await?;
        let mut stdout = stdout();
        for model in cached {
            writeln!(stdout, "{}@{}", model.model, model.commit)?;
        }
    }
    if !common.quiet {
        say!("{:.1} MB freed", freed as f64 / 1e6);
    }
    Ok(())
}

pub async fn verify(arguments: &VerifyArguments, common: &Common) -> Outcome {
    let models = from_environment(common)?;
    let mut cached = Vec::new();
    for name in &arguments.models {
        cached.extend(models.cached(&models.name(name)?).await?);
    }
    if arguments.models.is_empty() {
        cached = models.list().await?;
    }
    let bar = LoadBar::new(common.quiet);
    let mut results = Vec::new();
    for model in &cached {
        results.push((model, models.verify(model, &mut |progress| bar.show(&progress)).await?));
    }
    drop(bar);
    let mut stdout = stdout();
    if arguments.json {
        let results: Vec<_> = results
            .iter()
            .map(|(model, verdict)| serde_json::json!({ "model": model.model, "commit": model.commit, "verdict": verdict }))
            .collect();
        writeln!(stdout, "{}", serde_json::json!({ "models": results }))?;
    } else {
        for (model, verdict) in &results {
            writeln!(stdout, "{verdict:<10}  {}@{}", model.model, model.commit)?;
        }
    }
    let wrong: Vec<_> = results
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::Wrong)
        .map(|(model, _)| &model.model[..])
        .collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::corrupt_model(format!(
            "{} on disk differs from its SHA-256. `candlewick pull --force` fetches it anew",
            wrong.join(", ")
        ))
        .into()),
    }
}
