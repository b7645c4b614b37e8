//! From a model file and a request to text: load, prefill, decode, sample, stop.

mod batch;
mod context;
mod counts;
mod device;
mod embedding;
mod estimate;
mod generation;
mod info;
mod inspect;
mod model;
mod oldest;
mod pages;
mod recovery;
mod run;
mod session;
mod start;
mod state;
mod states;
mod stop;

pub use crate::progress::{Progress, Stage};
pub use context::Context;
pub use counts::{PromptTokensDetails, Timings, Usage};
pub use device::Device;
pub use embedding::{Document, Embedding, EmbeddingSettings};
pub use estimate::{Estimate, Verdict, fits};
pub use generation::{Event, FinishReason, Generation, Prompt, Settings, Truncation};
pub use info::{Info, Memory};
pub use inspect::{Inspection, inspect};
pub use session::{Session, Turn};
pub(crate) use start::Start;
pub use state::{Restored, Saved};

use crate::backend::cpu::MOST_THREADS;
use crate::backend::{Backend, KernelTime};
use crate::chat::{ChatTemplate, Conversation, LocalTime};
use crate::format::gguf::Header;
use crate::json::check_depth;
use crate::model::Encoder;
use crate::progress::Reporter;
use crate::store::Source;
use crate::text::Tokenizer;
use crate::{Error, Result};
use async_lock::Mutex;
use batch::Batch;
use context::Granted;
use event_listener::Event as Notice;
use futures_util::future::LocalBoxFuture;
use model::{Description, Loaded, Plan, Target};
use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use web_time::{SystemTime, UNIX_EPOCH};

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to run it.
    pub device: Device,
    /// Tokens that prompt and answer may take together; at most what the model was trained for.
    /// By default that, or 4096 where it is more.
    pub context: Option<Context>,
    /// Bytes that weights and KV cache may take together, as in the file: see [`fits`].
    pub max_memory: Option<u64>,
    /// Threads of the CPU, from 1 to 64. By default as many of the machine's, up to 16, as a short measurement
    /// finds to be the fastest; one in a page that is not cross-origin isolated.
    pub threads: Option<NonZeroUsize>,
    /// Keys and values in 8 bits on the CPU: a quarter of the room, at some loss. GPUs keep them in 16 bits.
    pub kv_8bit: bool,
    /// Whether the CPU takes over where the GPU fails, while loading or by being lost again and again. By default
    /// it does where the device is [`Device::Auto`].
    pub fallback: Option<bool>,
    /// Measures what each of the device's kernels costs, for [`Engine::kernel_times`]. Slows everything down.
    pub profile: bool,
    /// Tokens of an answer in a second that the CPU must promise, where the model would run there; otherwise loading
    /// fails with `resource_exhausted`, before any weights are read.
    pub min_tokens_per_second: Option<f64>,
    /// How to use the GPU.
    #[cfg(feature = "gpu")]
    pub gpu: crate::backend::gpu::Options,
}

impl Options {
    fn falls_back(&self) -> bool {
        self.fallback.unwrap_or(self.device == Device::Auto)
    }
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
        check_depth("messages", &conversation.messages)?;
        check_depth("tools", conversation.tools.iter().flatten())?;
        check_depth("chat_template_kwargs", conversation.variables.values())?;
        if conversation.messages.is_empty() {
            return Err(Error::invalid_argument(
                "messages is empty; a conversation has at least one message",
            ));
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
    info: Rc<RefCell<Rc<Info>>>,
    work: Work,
}

/// What a model does.
#[derive(Clone)]
enum Work {
    /// It continues texts, several at once.
    Decoder(Rc<Shared>),
    /// It turns texts into vectors, those of one request at a time.
    // The lock is shared between tasks of one thread, never between threads.
    Encoder(Arc<Mutex<Encoder>>),
}

/// What all answers of a decoder have in common.
struct Shared {
    language: Rc<Language>,
    batch: Mutex<Batch>,
    /// That an event was read, or an answer left.
    changed: Notice,
}

impl Engine {
    /// Loads the model in `source`, which is read again should a GPU be lost. `progress` hears how far it is,
    /// and stops the loading by giving an error, which then comes back from here.
    pub async fn load(
        source: Rc<dyn Source>,
        options: &Options,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<Engine> {
        // Boxed, so that this future is compiled once instead of at each caller.
        let loading: LocalBoxFuture<'_, _> = Box::pin(Self::load_inner(source, options, progress));
        loading.await
    }

    async fn load_inner(
        source: Rc<dyn Source>,
        options: &Options,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<Engine> {
        check_threads(options.threads)?;
        let mut reporter = Reporter::new(source.name(), source.len(), None, progress);
        reporter.start()?;
        let model = Rc::new(Plan { source, options: options.clone(), granted: Cell::new(None) });
        let source = model.source.as_ref();
        let description = model.describe().await?;
        let Description { header, config, .. } = &description;
        let in_file = |error: Error| error.context(source.name());
        let language = Rc::new(Language::from_header(header).map_err(in_file)?);
        if language.tokenizer.len() > config.vocabulary {
            return Err(in_file(Error::corrupt_model(format!(
                "the vocabulary has {} tokens, the model only {}",
                language.tokenizer.len(),
                config.vocabulary
            ))));
        }
        let info = |backend: &dyn Backend, context, reason| {
            let granted = Granted::new(options, config, context);
            let info = Info::new(source, header, config, &language, granted, backend, reason)?;
            Ok::<_, Error>(Rc::new(RefCell::new(Rc::new(info))))
        };
        #[allow(
            clippy::arc_with_non_send_sync,
            reason = "guards that are kept are an Arc's; none leaves the thread"
        )]
        let (info, work) = match config.family.encoder {
            true => {
                let (encoder, reason) = model.load_encoder(&description, &mut reporter).await?;
                let info = info(encoder.backend(), description.context, reason)?;
                (info, Work::Encoder(Arc::new(Mutex::new(encoder))))
            }
            false => {
                let Loaded { decoder, reason, context, .. } =
                    model.load(&description, Target::Wanted, &mut reporter).await?;
                let info = info(decoder.backend(), context, reason)?;
                let batch = Mutex::new(Batch::new(decoder, model.clone(), info.clone()));
                let shared = Shared { language: language.clone(), batch, changed: Notice::new() };
                (info, Work::Decoder(Rc::new(shared)))
            }
        };
        reporter.ready()?;
        Ok(Engine { language, info, work })
    }

    /// What was loaded, and where it runs now.
    pub fn info(&self) -> Rc<Info> {
        self.info.borrow().clone()
    }

    /// Tokenizer and chat template.
    pub fn language(&self) -> &Language {
        &self.language
    }

    /// Whether it turns texts into vectors, and continues none.
    pub fn is_encoder(&self) -> bool {
        matches!(self.work, Work::Encoder(_))
    }

    fn decoder(&self) -> Result<&Rc<Shared>> {
        match &self.work {
            Work::Decoder(shared) => Ok(shared),
            Work::Encoder(_) => Err(Error::unsupported_model(format!(
                "{} turns texts into vectors, and writes none. Ask it for embeddings, or load a model that chats",
                self.info().name
            ))),
        }
    }

    /// Fails with `unsupported_model` where it has no embeddings.
    pub fn check_encoder(&self) -> Result<()> {
        self.encoder().map(|_| ())
    }

    fn encoder(&self) -> Result<&Arc<Mutex<Encoder>>> {
        match &self.work {
            Work::Encoder(encoder) => Ok(encoder),
            Work::Decoder(_) => Err(Error::unsupported_model(format!(
                "{} continues texts, and has no embeddings. Load an encoder for them, such as all-MiniLM-L6-v2 or \
                 bge-small",
                self.info().name
            ))),
        }
    }

    /// What the device's kernels have cost since the last call, longest first, where the options asked to
    /// measure: the CPU, and GPUs with timestamps.
    pub async fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let shared = match &self.work {
            Work::Decoder(shared) => shared,
            Work::Encoder(encoder) => return encoder.lock_arc().await.kernel_times().await,
        };
        let mut batch = shared.batch.lock().await;
        batch.settle(&self.language.tokenizer).await;
        batch.decoder().kernel_times().await
    }

    /// Begins to answer as soon as there is room for that: several answers go on together, and those that wait begin in
    /// the order in which they came. Dropping the generation gives its room to others.
    pub async fn generate(&self, prompt: Prompt, settings: Settings) -> Result<Generation> {
        self.begin(self.prepare(prompt, settings).await?).await
    }

    /// Checks a request, and turns its prompt into tokens.
    pub(crate) async fn prepare(&self, prompt: Prompt, settings: Settings) -> Result<Start> {
        self.decoder()?;
        Start::new(&self.language, self.info().context_length, prompt, settings).await
    }

    /// Begins to answer.
    pub(crate) async fn begin(&self, start: Start) -> Result<Generation> {
        let shared = self.decoder()?;
        let (prompt, seed) = (start.prompt().to_vec(), start.seed());
        let (talk, run) = start.run();
        let generation = Generation::new(shared.clone(), talk, prompt, seed);
        if let Some(run) = run {
            shared.batch.lock().await.add(run);
        }
        Ok(generation)
    }

    /// The scores of what follows each of `tokens`, in order: `on_row(position, logits)`. Answers that go on meanwhile
    /// wait.
    pub async fn logits(&self, tokens: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let shared = self.decoder()?;
        let context = self.info().context_length;
        if tokens.len() > context {
            return Err(Error::context_length_exceeded(format!(
                "{} tokens, and the context holds {context}. Load the model with a larger context",
                tokens.len()
            )));
        }
        let tokenizer = &self.language.tokenizer;
        let (mut next, mut losses) = (0, 0);
        loop {
            let changed = shared.changed.listen();
            let mut batch = shared.batch.lock().await;
            batch.settle(tokenizer).await;
            let first = next;
            let mut on_new_row = |position: usize, logits: &[f32]| {
                next = position + 1;
                on_row(position, logits);
            };
            let worked = match batch.logits(tokens, first, &mut on_new_row).await {
                Ok(true) => return Ok(()),
                // There is no room: answers that end make some.
                Ok(false) => batch.step(tokenizer).await,
                Err(error) => {
                    losses = batch.recover(error, losses + 1).await?;
                    true
                }
            };
            drop(batch);
            if !worked {
                changed.await;
            }
        }
    }
}

fn check_threads(threads: Option<NonZeroUsize>) -> Result<()> {
    match threads {
        Some(threads) if threads.get() > MOST_THREADS => {
            Err(Error::invalid_argument(format!("{threads} threads; it must be from 1 to {MOST_THREADS}")))
        }
        _ => Ok(()),
    }
}
