//! From a model file and a request to text: load, prefill, decode, sample, stop.

mod device;
mod estimate;
mod generation;
mod info;
mod progress;
mod session;
mod stop;

pub use device::Device;
pub use estimate::{Estimate, Verdict, estimate};
pub use generation::{
    Event, FinishReason, Generation, Prompt, PromptTokensDetails, Settings, Timings, Truncation, Usage,
};
pub use info::{Info, Memory};
#[cfg(feature = "cli")]
pub(crate) use info::{model_name, parameters, quantization};
pub use progress::{Meter, Progress, Stage};

use crate::chat::{ChatTemplate, Conversation, LocalTime};
use crate::model::gguf::Header;
use crate::model::{Config, Decoder};
use crate::store::{ReadAhead, Source};
use crate::text::Tokenizer;
use crate::{Code, Error, Result};
use async_lock::Mutex;
use device::Opened;
use session::Session;
use std::rc::Rc;
use std::sync::Arc;
use web_time::{SystemTime, UNIX_EPOCH};

/// Tokens of context when nobody asks for another number and the model allows it.
const DEFAULT_CONTEXT: usize = 4096;

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to run it.
    pub device: Device,
    /// Tokens that prompt and answer may take together; at most what the model was trained for.
    /// By default that, or 4096 where it is more.
    pub context: Option<usize>,
}

/// The text side of a model: all that works on a vocabulary-only file.
pub struct Language {
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How conversations become prompts; base models have none.
    pub template: Option<ChatTemplate>,
}

impl Language {
    /// Reads vocabulary and chat template.
    pub fn from_header(header: &Header) -> Result<Self> {
        let tokenizer = Tokenizer::from_metadata(&header.metadata)?;
        let template = ChatTemplate::from_metadata(&header.metadata)?;
        Ok(Language { tokenizer, template })
    }

    /// The prompt text of a conversation of at least one message, each with its role. Templates that ask get today's date in UTC, unless the
    /// conversation says what time it is.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(|| {
            Error::invalid_argument(
                "this model has no chat template: it continues text. Give it a prompt instead of messages",
            )
        })?;
        if conversation.messages.is_empty() {
            return Err(Error::invalid_argument(
                "messages is empty; a conversation has at least one message",
            ));
        }
        // What is no object, the template refuses.
        let no_role = |message: &serde_json::Value| message.is_object() && !message["role"].is_string();
        if let Some(index) = conversation.messages.iter().position(no_role) {
            return Err(Error::invalid_argument(format!("messages[{index}] has no role")));
        }
        let has_tools = conversation.tools.as_ref().is_some_and(|tools| !tools.is_empty());
        if has_tools && template.name() != "model" {
            return Err(Error::invalid_argument(format!(
                "this model's file has no chat template, and the format used instead ({}) knows no tools",
                template.name()
            )));
        }
        if conversation.now.is_some() {
            return template.render(conversation);
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = LocalTime { unix_seconds: since_epoch.as_secs() as i64, utc_offset: 0 };
        template.render(&Conversation { now: Some(now), ..conversation.clone() })
    }
}

/// A loaded model. Clones are handles of the same one.
#[derive(Clone)]
pub struct Engine {
    language: Rc<Language>,
    info: Rc<Info>,
    /// One request runs at a time; the others wait here in the order they came.
    session: Arc<Mutex<Session>>,
}

impl Engine {
    /// Loads the model in `source`. `progress` hears how far it is, and stops the loading by
    /// giving an error, which then comes back from here.
    pub async fn load(
        source: &dyn Source,
        options: &Options,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<Engine> {
        let source = &ReadAhead::new(source);
        let meter = Meter::new(source.name(), source.len());
        progress(meter.at(Stage::Load, 0))?;
        let header = Header::read(source).await?;
        if header.tensors.is_empty() && !header.metadata.contains("split.count") {
            return Err(Error::unsupported_model(format!(
                "{} holds a vocabulary without a model; it can tokenize, but not generate",
                source.name()
            )));
        }
        let in_file = |error: Error| error.context(source.name());
        let config = Config::from_header(&header).map_err(in_file)?;
        let language = Language::from_header(&header).map_err(in_file)?;
        if language.tokenizer.len() > config.vocabulary {
            return Err(in_file(Error::corrupt_model(format!(
                "the vocabulary has {} tokens, the model only {}",
                language.tokenizer.len(),
                config.vocabulary
            ))));
        }
        let context = context_size(options.context, config.trained_context)?;
        let weights: u64 = header.tensors.iter().map(|tensor| tensor.size).sum();
        let meter = Meter::new(source.name(), weights);
        let opened = device::open(options.device).await?;
        let mut loaded = |bytes| progress(meter.at(Stage::Load, bytes));
        let first = load_on(source, &header, &config, context, opened, &mut loaded).await;
        let (decoder, reason) = match first {
            // What the GPU cannot do the CPU may.
            Err((error, true)) if options.device == Device::Auto && of_the_device(&error) => {
                let cpu = Opened::cpu(error.message);
                load_on(source, &header, &config, context, cpu, &mut loaded)
                    .await
                    .map_err(|(error, _)| error)?
            }
            first => first.map_err(|(error, _)| error)?,
        };
        let info = Info::new(source, &header, &config, &language, context, decoder.backend(), reason)?;
        progress(meter.at(Stage::Ready, weights))?;
        let session = Session::new(decoder);
        Ok(Engine {
            language: Rc::new(language),
            info: Rc::new(info),
            // The lock is shared between tasks of one thread, never between threads.
            #[allow(clippy::arc_with_non_send_sync)]
            session: Arc::new(Mutex::new(session)),
        })
    }

    /// What was loaded, and where it runs.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Tokenizer and chat template.
    pub fn language(&self) -> &Language {
        &self.language
    }

    /// Starts to answer, once the requests before this one have ended. Dropping the future or
    /// the generation gives the turn to the next.
    pub async fn generate(&self, prompt: Prompt, settings: Settings) -> Result<Generation> {
        let start = generation::Start::new(&self.language, self.info.context_length, prompt, settings)?;
        let mut session = self.session.lock_arc().await;
        session.settle().await?;
        Ok(start.with(self.language.clone(), session))
    }

    /// The scores of what follows each of `tokens`, in order: `on_row(position, logits)`.
    pub async fn logits(&self, tokens: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let context = self.info.context_length;
        if tokens.len() > context {
            return Err(Error::context_length_exceeded(format!(
                "{} tokens, and the context holds {context}. Load the model with a larger context (--ctx)",
                tokens.len()
            )));
        }
        let mut session = self.session.lock_arc().await;
        session.settle().await?;
        let mut logits = Vec::new();
        let step = session.decoder.step_len();
        for (index, chunk) in tokens.chunks(step).enumerate() {
            session.forward(chunk, index * step)?;
            for row in 0..chunk.len() {
                session.decoder.logits(row, &mut logits).await?;
                on_row(index * step + row, &logits);
            }
        }
        Ok(())
    }
}

/// Refuses a model whose weights and KV cache take more than `limit` bytes. Reads its header only.
pub async fn fits(source: &dyn Source, options: &Options, limit: u64) -> Result<()> {
    let header = Header::read(&ReadAhead::new(source)).await?;
    let config = Config::from_header(&header).map_err(|error| error.context(source.name()))?;
    let context = context_size(options.context, config.trained_context)?;
    let Memory { weights, kv_cache } = Memory::of(&header, &config, context);
    let needed = weights.saturating_add(kv_cache);
    if needed > limit {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        return Err(Error::resource_exhausted(format!(
            "{} needs {:.1} MB, and there may be {:.1} MB for it",
            source.name(),
            megabytes(needed),
            megabytes(limit)
        )));
    }
    Ok(())
}

/// Brings the weights to a device. An error comes with whether that device was a GPU.
async fn load_on(
    source: &dyn Source,
    header: &Header,
    config: &Config,
    context: usize,
    Opened { backend, reason }: Opened,
    loaded: &mut dyn FnMut(u64) -> Result<()>,
) -> std::result::Result<(Decoder, String), (Error, bool)> {
    let on_gpu = backend.gpu().is_some();
    match Decoder::load(source, header, config.clone(), backend, context, loaded).await {
        Ok(decoder) => Ok((decoder, reason)),
        Err(error) => Err((error, on_gpu)),
    }
}

/// Whether it is the device that failed, and not the file, its source or the caller.
fn of_the_device(error: &Error) -> bool {
    matches!(error.code, Code::ResourceExhausted | Code::DeviceLost | Code::UnsupportedModel | Code::Internal)
}

fn context_size(asked: Option<usize>, trained: usize) -> Result<usize> {
    match asked {
        None => Ok(trained.min(DEFAULT_CONTEXT)),
        Some(context) if (1..=trained).contains(&context) => Ok(context),
        Some(context) => Err(Error::invalid_argument(format!(
            "a context of {context} tokens; it must be from 1 to the {trained} that the model was trained for"
        ))),
    }
}
