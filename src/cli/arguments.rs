//! What can be typed.

use super::settings::{AnswerArguments, Fallbacks};
use crate::Error;
use crate::engine::Context;
use crate::http::Token;
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Large language models that run where the user is.
#[derive(Debug, Parser)]
#[command(name = "candlewick", version, about, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// Where to run: auto (the GPU where it computes rightly and faster than the CPU), gpu or cpu
    #[arg(long, global = true, default_value = "auto", value_parser = ["auto", "gpu", "cpu"])]
    pub device: String,
    /// What the GPU is to do without: subgroups, f16, half, dp4a [also: CANDLEWICK_GPU_DISABLE]
    #[cfg(feature = "gpu")]
    #[arg(long, global = true, value_name = "NAMES", value_delimiter = ',')]
    pub gpu_disable: Vec<String>,
    /// Threads of the CPU, up to 64 [default: the fastest number, measured]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Tokens of context, prompt and answer together; max is as many as the model was trained for and memory allows,
    /// max:N no more than N of them [default: the model's, at most 4096]
    #[arg(long, global = true, value_name = "N|max", value_parser = context)]
    pub ctx: Option<Context>,
    /// Keys and values on the CPU: 8bit takes a quarter of the room, at some loss; GPUs keep them in 16 bits
    #[arg(long, global = true, default_value = "full", value_parser = ["full", "8bit"])]
    pub kv: String,
    /// Ask no server: only what is in the cache (also HF_HUB_OFFLINE=1)
    #[arg(long, global = true)]
    pub offline: bool,
    /// A token for Hugging Face: private and gated models, hosted models [default: HF_TOKEN, or what `hf auth login` left]
    #[arg(long, global = true, value_name = "TOKEN", value_parser = token)]
    pub token: Option<Token>,
    /// Say nothing but the answer and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more about what is going on
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Answer one prompt
    Run(RunArguments),
    /// Talk with a model
    Chat(ChatArguments),
    /// Turn texts into vectors, with an encoder
    Embed(EmbedArguments),
    /// Measure the speed of a model
    Bench(BenchArguments),
    /// Print what a model expects after each of some tokens
    Logits(LogitsArguments),
    /// Turn text into token ids
    Tokenize(TokenizeArguments),
    /// Print the prompt text of a conversation
    Render(RenderArguments),
    /// Say what a model file holds
    Info(InfoArguments),
    /// Fetch a model into the cache, or a newer version of it
    Pull(PullArguments),
    /// List the models in the cache
    List(ListArguments),
    /// Remove a model from the cache
    Rm(RmArguments),
    /// Read models in the cache and compare their hashes
    Verify(VerifyArguments),
    /// Manage providers of hosted models
    #[command(subcommand)]
    Provider(ProviderCommand),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("input").required(true).args(["prompt", "file", "stdin"]))]
pub(super) struct RunArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address; or a hosted model: hf:org/name,
    /// PROVIDER[:model]
    pub model: OsString,
    #[command(flatten)]
    pub fallbacks: Fallbacks,
    /// The prompt
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A file with the prompt, used byte for byte
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read the prompt from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    pub stdin: Option<String>,
    /// A system message before the prompt; for a new session
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// A file with the conversation so far and what the model has computed of it: read if it is there, and written at
    /// the end
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub session: Option<PathBuf>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    pub raw: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub answer: AnswerArguments,
}

/// Hosted models by name: `hf:org/name` on Hugging Face, PROVIDER:model elsewhere.
#[derive(Debug, Subcommand)]
pub(super) enum ProviderCommand {
    /// Add a provider, or change one
    Add(AddArguments),
    /// List the providers
    List {
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Ask a provider one small question
    Test {
        /// Which one [default: the default one]
        name: Option<String>,
    },
    /// List the models of a provider, with their context and prices
    Models {
        /// Which one [default: the default one]
        name: Option<String>,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Make a provider the default one, which MODEL `remote` stands for
    Default {
        /// Which one
        name: String,
    },
    /// Forget a provider
    Rm {
        /// Which one
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// Letters, digits, - and _
    pub name: String,
    /// Its base address, as OpenAI's interface has it: https://…/v1
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The model to ask when nobody names one
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The environment variable that will hold the token
    #[arg(long, value_name = "NAME", conflicts_with = "token_stdin")]
    pub token_env: Option<String>,
    /// Read the token from standard input and keep it in the configuration file
    #[arg(long)]
    pub token_stdin: bool,
    /// The organization on Hugging Face that pays
    #[arg(long, value_name = "ORG")]
    pub bill_to: Option<String>,
    /// Seconds that an answer may take, with all attempts [default: 600]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: Option<u64>,
    /// Make it the default provider
    #[arg(long)]
    pub default: bool,
}

#[derive(Debug, Args)]
pub(super) struct ChatArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address; or a hosted model: hf:org/name,
    /// PROVIDER[:model]
    pub model: OsString,
    #[command(flatten)]
    pub fallbacks: Fallbacks,
    /// A system message at the beginning; for a new session
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A file with the conversation so far and what the model has computed of it: read if it is there, and written at
    /// the end
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
    #[command(flatten)]
    pub answer: AnswerArguments,
}

#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address
    pub model: OsString,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = NonZeroUsize::new(128).unwrap())]
    pub prompt: NonZeroUsize,
    /// Tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = NonZeroUsize::new(32).unwrap())]
    pub predict: NonZeroUsize,
    /// Rounds, after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = NonZeroUsize::new(3).unwrap())]
    pub rounds: NonZeroUsize,
    /// Measure the device's kernels instead, and print what each costs
    #[arg(long)]
    pub profile: bool,
    /// Measure so many answers at once instead: tokens per second of all of them, and the longest wait of one of them
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "profile")]
    pub together: Vec<NonZeroUsize>,
    /// With --together: a prompt of so many tokens joins them half-way
    #[arg(long, value_name = "N", default_value_t = 0, requires = "together")]
    pub joining: usize,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogitsArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address
    pub model: OsString,
    /// Token ids, used as they are (no BOS is added)
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true, value_parser = token_id)]
    pub tokens: Vec<u32>,
    /// How many of the likeliest tokens to print; 0 prints every logit in the order of the ids
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub top: usize,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EmbedArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address
    pub model: OsString,
    /// The texts, after -- where one begins with a hyphen [default: standard input, one a line]
    pub texts: Vec<String>,
    /// A file with the texts, one a line
    #[arg(short, long, value_name = "FILE", conflicts_with = "texts")]
    pub file: Option<PathBuf>,
    /// Keep so many numbers of each vector: for models trained so (Matryoshka)
    #[arg(long, value_name = "N")]
    pub dimensions: Option<usize>,
    /// Read only the beginning of a text that is too long for the model
    #[arg(long)]
    pub truncate: bool,
    /// Print one JSON object instead of a line of numbers a text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TokenizeArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address; a vocabulary is enough
    pub model: OsString,
    /// The text [default: standard input]
    #[arg(allow_hyphen_values = true)]
    pub text: Option<String>,
    /// A file with the text, used byte for byte
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// Read special tokens in the text as such, and add those that the model wants around a text
    #[arg(long)]
    pub special: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RenderArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address; a vocabulary is enough
    pub model: OsString,
    /// A JSON file: an array of messages, or an object as /v1/chat/completions takes
    #[arg(long, value_name = "FILE")]
    pub messages: PathBuf,
    /// A JSON file: an array of tools
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// Leave out the beginning of the answer
    #[arg(long)]
    pub no_generation_prompt: bool,
    /// Leave the last message open, for the model to go on with
    #[arg(long = "continue")]
    pub continue_final_message: bool,
}

#[derive(Debug, Args)]
pub(super) struct InfoArguments {
    /// A path, owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address; a vocabulary is enough
    pub model: OsString,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PullArguments {
    /// owner/repo[:QUANT], owner/repo/file.gguf[@revision] or an address
    #[arg(required = true)]
    pub models: Vec<String>,
    /// Fetch it anew, whatever is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArguments {
    /// owner/repo for all its files, or owner/repo:QUANT, owner/repo/file.gguf, each with @revision
    #[arg(required = true)]
    pub models: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// As for rm [default: all models]
    pub models: Vec<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

fn context(text: &str) -> Result<Context, String> {
    text.parse().map_err(|error: Error| error.message)
}

fn token(text: &str) -> Result<Token, String> {
    Token::new(text).map_err(|error| error.message)
}

/// People write spaces after commas.
fn token_id(text: &str) -> Result<u32, std::num::ParseIntError> {
    text.trim().parse()
}
