//! From a model's name to an engine, wherever the model is: the same for every face.

use crate::engine::{self, Engine, Inspection, Options};
use crate::hub::{Cached, Model, Models, Spec};
use crate::progress::{Progress, Stage};
use crate::{Code, Result};
use serde::Serialize;
use std::rc::Rc;

#[cfg(not(target_arch = "wasm32"))]
pub use named::{Named, load};

/// What a model is and needs, and what of it is in the store.
#[derive(Debug, Clone, Serialize)]
pub struct Inspected {
    #[serde(flatten)]
    #[allow(missing_docs, reason = "the fields are the inspection's")]
    pub inspection: Inspection,
    /// Under its full name, at the commit that was looked at.
    pub cached: Cached,
}

/// What the model called `spec` is and needs, before it is fetched. Nothing is kept of it.
pub async fn inspect(models: &Models, spec: &Spec, options: &Options) -> Result<Inspected> {
    let model = models.peek(spec).await?;
    let inspection = engine::inspect(&model, options).await?;
    Ok(Inspected { inspection, cached: model.cached() })
}

/// Loads an engine while the model comes, and makes sure of the model. Where bytes were wrong on their way, it is
/// loaded again with the right ones.
pub async fn load_model(
    model: Rc<Model>,
    options: &Options,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Engine> {
    let progress = &mut |report: Progress| progress(model.follow(report));
    let mut ready = None;
    let mut shown = |report: Progress| match report.stage {
        // Until all is there, what comes over the network says how far it is.
        Stage::Load if !model.is_whole() => Ok(()),
        Stage::Ready if !model.is_whole() => {
            ready = Some(report);
            Ok(())
        }
        _ => progress(report),
    };
    let engine = Engine::load(model.clone(), options, &mut shown).await;
    match &engine {
        Err(error) if error.code != Code::CorruptModel => return engine,
        // There is no hash that could find what is wrong.
        Err(_) if model.keys().any(|key| key.sha256().is_none()) => {
            model.discard().await?;
            return engine;
        }
        _ => {}
    }
    if model.complete().await? {
        return Engine::load(model.clone(), options, progress).await;
    }
    ready.map_or(Ok(()), progress)?;
    engine
}

#[cfg(not(target_arch = "wasm32"))]
mod named {
    use super::load_model;
    use crate::Result;
    use crate::engine::{Engine, Options};
    use crate::hub::{Models, Report, Spec};
    use crate::store::open_file;
    use std::ffi::OsStr;
    use std::path::{Path, PathBuf};
    use std::rc::Rc;

    /// What a name stands for.
    pub enum Named {
        /// A model on this disk.
        File(PathBuf),
        /// One to be fetched, or in the store, and who knows of it.
        Elsewhere(Spec, Box<Models>),
    }

    impl Named {
        /// What `name` stands for. Where there is a file of that name, it is that; a path need not be text. `models` is
        /// asked for anything else.
        pub fn of(name: &OsStr, models: impl FnOnce() -> Result<Models>) -> Result<Named> {
            // A link that leads nowhere is a file, too.
            let is_name = Path::new(name).symlink_metadata().is_err();
            let Some(text) = name.to_str().filter(|_| is_name) else {
                return Ok(Named::File(name.into()));
            };
            let models = models()?;
            Ok(match models.name(text)? {
                Spec::Path(path) => Named::File(path.into()),
                spec => Named::Elsewhere(spec, Box::new(models)),
            })
        }
    }

    /// Loads the model called `name`: a file of that name, or else a model of the Hub or an address, see [`Spec`]. What
    /// is not in the store of `models` is fetched, and read while it comes. `report` hears how far that is; its error
    /// ends it.
    ///
    /// ```no_run
    /// use candlewick::engine::Options;
    /// use candlewick::hub::Models;
    /// use std::rc::Rc;
    ///
    /// # async fn example() -> candlewick::Result<()> {
    /// let name = "unsloth/SmolLM2-135M-Instruct-GGUF:Q8_0";
    /// let engine = candlewick::load(name, Models::from_environment, &Options::default(), Rc::new(|_| Ok(()))).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load(
        name: impl AsRef<OsStr>,
        models: impl FnOnce() -> Result<Models>,
        options: &Options,
        report: Report,
    ) -> Result<Engine> {
        let progress = &mut |progress| report(progress);
        match Named::of(name.as_ref(), models)? {
            Named::File(path) => Engine::load(open_file(&path)?.into(), options, progress).await,
            Named::Elsewhere(spec, models) => {
                let model = models.open(&spec, false, report.clone()).await?;
                load_model(Rc::new(model), options, progress).await
            }
        }
    }
}
