//! A model that can be brought to a device, and again to another when that one is lost.

use super::device::{self, Choice};
use super::info::Memory;
use super::{Options, context};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, seconds_a_token};
use crate::format::gguf::Header;
use crate::model::{Config, Decoder, Encoder};
use crate::progress::Reporter;
use crate::store::Source;
use crate::{Code, Error, Result};
use futures_util::future::LocalBoxFuture;
use std::cell::Cell;
use std::rc::Rc;

/// Where a model comes from and how it shall run.
pub(super) struct Plan {
    pub source: Rc<dyn Source>,
    pub options: Options,
    /// The context with which it was loaded: requests that were let in count on it when the model comes back.
    pub granted: Cell<Option<usize>>,
}

/// What a file says about its model.
pub(super) struct Description {
    pub header: Header,
    pub config: Config,
    /// Tokens that are wanted; a device may have memory for fewer.
    pub context: usize,
}

/// A model on a device.
pub(super) struct Loaded {
    pub decoder: Decoder,
    /// Why it is there.
    pub reason: String,
    /// Tokens.
    pub context: usize,
    /// What it takes there.
    pub memory: Memory,
}

/// Which way to go.
pub(super) enum Target {
    /// As the options say.
    Wanted,
    /// The GPU on which it was, or another one.
    GpuAgain,
    /// The CPU.
    Cpu,
}

impl Description {
    /// Bytes of all tensors, as in the file.
    fn weights(&self) -> u64 {
        self.header.tensors.iter().map(|tensor| tensor.size).sum()
    }
}

impl Plan {
    pub(super) async fn describe(&self) -> Result<Description> {
        let source = self.source.as_ref();
        let header = Header::read(source).await?;
        if header.tensors.is_empty() && !header.metadata.contains("split.count") {
            return Err(Error::unsupported_model(format!(
                "{} holds a vocabulary without a model; it can tokenize, but not generate",
                source.name()
            )));
        }
        let config = Config::read(source, &header)?;
        let context = match self.granted.get() {
            Some(granted) => granted,
            None => context::wanted(&self.options, &config)?,
        };
        Ok(Description { header, config, context })
    }

    /// Brings the model to a device. Where that is the GPU, and the GPU fails, the CPU may take over.
    pub(super) async fn load(
        &self,
        description: &Description,
        target: Target,
        reporter: &mut Reporter<'_>,
    ) -> Result<Loaded> {
        reporter.expect(description.weights());
        let loaded = self.load_somewhere(description, target, reporter).await?;
        self.granted.set(Some(loaded.context));
        Ok(loaded)
    }

    async fn load_somewhere(
        &self,
        description: &Description,
        target: Target,
        reporter: &mut Reporter<'_>,
    ) -> Result<Loaded> {
        let reason = match target {
            Target::Cpu => reporter.restarted().unwrap_or_default(),
            Target::Wanted if self.options.device == device::Device::Cpu => "asked for".to_owned(),
            Target::Wanted | Target::GpuAgain => {
                let again = matches!(target, Target::GpuAgain);
                match self.load_on_gpu(description, again, reporter).await {
                    Ok(Choice::Gpu(loaded)) => return Ok(loaded),
                    Ok(Choice::Cpu(reason)) => reason,
                    // Whoever recovers from losses counts them.
                    Err(error) if again && error.code == Code::DeviceLost => return Err(error),
                    Err(error) if of_the_device(&error) && self.options.falls_back() => {
                        reporter.restart(&error.message);
                        error.message
                    }
                    Err(error) if of_the_device(&error) => {
                        let message = format!("{}. Use the device \"cpu\"", error.message);
                        return Err(Error { message, ..error });
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let context = self.fitting(description, false);
        if let (Target::Wanted, Some(wanted)) = (target, self.options.min_tokens_per_second) {
            self.check_speed(description, context, wanted, &reason).await?;
        }
        let Options { threads, profile, kv_8bit, .. } = self.options;
        let cpu = Cpu::with_threads(threads).measured(profile).with_kv_8bit(kv_8bit);
        self.load_on(description, context, Box::new(cpu), reason, reporter).await
    }

    /// Tokens to try on the CPU or a GPU.
    fn fitting(&self, description: &Description, gpu: bool) -> usize {
        let Description { header, config, context } = description;
        match self.granted.get() {
            Some(granted) => granted,
            None => context::fitting(&self.options, header, config, *context, gpu),
        }
    }

    /// Brings an encoder to the CPU. Says why there.
    pub(super) async fn load_encoder(
        &self,
        description: &Description,
        reporter: &mut Reporter<'_>,
    ) -> Result<(Encoder, String)> {
        let reason = device::of_encoders(self.options.device)?;
        let Description { header, config, context } = description;
        reporter.expect(description.weights());
        let cpu = Box::new(Cpu::with_threads(self.options.threads).measured(self.options.profile));
        let mut loaded = |bytes| reporter.loaded(bytes);
        let encoder =
            Encoder::load(self.source.as_ref(), header, config.clone(), cpu, *context, &mut loaded).await?;
        Ok((encoder, reason.to_owned()))
    }

    /// Refuses the CPU where a product with a piece of the model says that it is too slow. `reason`: why no GPU.
    async fn check_speed(
        &self,
        description: &Description,
        context: usize,
        wanted: f64,
        reason: &str,
    ) -> Result<()> {
        let Description { header, config, .. } = description;
        let program = Decoder::program(self.source.as_ref(), header, config, context, 1).await?;
        let mut cpu = Cpu::with_threads(self.options.threads);
        cpu.loaded().await?;
        let speed = 1.0 / seconds_a_token(&mut cpu, &program).await?.max(1e-9);
        // Written so that what is no number is refused too.
        if speed >= wanted {
            return Ok(());
        }
        Err(Error::resource_exhausted(format!(
            "{}: about {speed:.1} tokens a second on the CPU, and there should be {wanted}; not on the GPU: {reason}",
            self.source.name()
        )))
    }

    /// With a smaller context where there is no memory for the one that is wanted, and that may be.
    async fn load_on_gpu(
        &self,
        description: &Description,
        again: bool,
        reporter: &mut Reporter<'_>,
    ) -> Result<Choice<Loaded>> {
        let Description { header, config, .. } = description;
        let mut context = self.fitting(description, true);
        loop {
            let error = match self.try_on_gpu(description, context, again, reporter).await {
                Err(error) if self.granted.get().is_none() => error,
                result => return result,
            };
            context = match context::smaller(&self.options, header, config, context, &error) {
                Some(less) => less,
                None => return Err(error),
            };
        }
    }

    async fn try_on_gpu(
        &self,
        description: &Description,
        context: usize,
        again: bool,
        reporter: &mut Reporter<'_>,
    ) -> Result<Choice<Loaded>> {
        let Description { header, config, .. } = description;
        let program = Decoder::program(self.source.as_ref(), header, config, context, 1).await?;
        let mut compiled = |made, total| reporter.compiled(made, total);
        // As an object, as in `Engine::load`.
        let opening: LocalBoxFuture<'_, _> =
            Box::pin(device::open(&self.options, &program, again, &mut compiled));
        match opening.await? {
            Choice::Cpu(reason) => Ok(Choice::Cpu(reason)),
            Choice::Gpu((backend, reason)) => {
                Ok(Choice::Gpu(self.load_on(description, context, backend, reason, reporter).await?))
            }
        }
    }

    async fn load_on(
        &self,
        description: &Description,
        context: usize,
        backend: Box<dyn Backend>,
        reason: String,
        reporter: &mut Reporter<'_>,
    ) -> Result<Loaded> {
        let Description { header, config, .. } = description;
        let mut loaded = |bytes| reporter.loaded(bytes);
        let memory = Memory::of(header, config, context, Some(backend.as_ref()));
        let decoder =
            Decoder::load(self.source.as_ref(), header, config.clone(), backend, context, &mut loaded)
                .await?;
        Ok(Loaded { decoder, reason, context, memory })
    }
}

/// Whether it is the device that failed, and not the file, its source or the caller.
pub(super) fn of_the_device(error: &Error) -> bool {
    matches!(error.code, Code::ResourceExhausted | Code::DeviceLost | Code::UnsupportedModel | Code::Internal)
}
