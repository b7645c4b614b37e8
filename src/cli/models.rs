//! Commands for the cache: `pull`, `list`, `rm`, `verify`; and how the others find a model by name.

use super::Outcome;
use super::arguments::{Common, ListArguments, PullArguments, RmArguments, VerifyArguments};
use super::output::{LoadBar, say, stdout};
use crate::http::OnRetry;
use crate::hub::{Client, Models, Report, Spec, Verification};
use crate::store::{FolderStore, Source};
use crate::{Error, Result};
use std::io::Write;
use std::rc::Rc;

/// The user's cache, and the Hub as the user's other tools see it.
pub(super) fn from_environment(common: &Common) -> Result<Models> {
    let quiet = common.quiet;
    let on_retry = OnRetry::new(move |retry| {
        if !quiet {
            let wait = retry.wait_ms as f64 / 1e3;
            say!("{}; attempt {} follows in {wait:.1} s", retry.message, retry.attempt + 1);
        }
    });
    let client = Client::from_environment()?.with_token(common.token.clone()).hearing(on_retry);
    let offline = common.offline || client.is_offline();
    Ok(Models::new(client.offline(offline), Rc::new(FolderStore::from_environment())))
}

pub(super) fn reporter(bar: &LoadBar) -> Report {
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

pub(super) async fn pull(arguments: &PullArguments, common: &Common) -> Outcome {
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

pub(super) async fn list(arguments: &ListArguments, common: &Common) -> Outcome {
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

pub(super) async fn rm(arguments: &RmArguments, common: &Common) -> Outcome {
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

pub(super) async fn verify(arguments: &VerifyArguments, common: &Common) -> Outcome {
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
        .filter(|(_, verdict)| *verdict == Verification::Wrong)
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
