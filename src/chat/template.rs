//! Chat templates: a model's Jinja, run as Hugging Face transformers runs it.

use super::budget::Excess;
use super::needs::{self, Needs, RenderFailure};
use super::{
    Conversation, LocalTime, budget, continuation, filters, formats, messages, methods, python, source,
};
use crate::format::gguf::Metadata;
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::fmt;
use std::io;
use std::sync::OnceLock;

/// The longest template. The longest published ones have some 20 kB.
const MAX_SOURCE: usize = 1 << 18;
/// Instructions of the virtual machine that a rendering may take, and more for each message.
/// Published templates take some hundred a message.
const FUEL: u64 = 5_000_000;
const FUEL_PER_MESSAGE: u64 = 20_000;
/// For the small conversations that show what a template needs.
const FUEL_FOR_NEEDS: u64 = 200_000;
/// Levels of macro calls, times four. A level takes some kilobytes of stack.
const RECURSION: usize = 200;
const DEFAULT: &str = "default";
/// The name transformers' users know for the variant that is used when there are tools.
const TOOL_USE: &str = "tool_use";

/// The texts of the special tokens that templates may name: `bos_token`, `eos_token` and the like.
pub type SpecialTokens = Map<String, Json>;

/// A template, ready to be rendered, or what is wrong with it.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Result<Environment<'static>>,
    name: String,
    /// What it needs, and what the variant for conversations with tools needs, if there is one.
    needs: OnceLock<Needs>,
    tool_use: Option<OnceLock<Needs>>,
    tokens: SpecialTokens,
}

impl ChatTemplate {
    /// The template of a model's file, or the named format that fits its vocabulary. `None` for models
    /// that are not made for conversations. A template that cannot be used fails only when it is to be
    /// rendered: all else that the model does needs none.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        let vocabulary = metadata.strings("tokenizer.ggml.tokens")?.into_iter().flatten().collect::<Vec<_>>();
        let tokens = special_tokens(metadata, &vocabulary)?;
        let sources = || -> Result<(Option<&str>, Option<&str>)> {
            // GGUF keeps the variants beside the default: tokenizer.chat_template.tool_use.
            let tool_use = metadata.str(&format!("tokenizer.chat_template.{TOOL_USE}"))?;
            Ok((metadata.str("tokenizer.chat_template")?.or(tool_use), tool_use))
        };
        let (source, tool_use) = match sources() {
            Ok((Some(source), tool_use)) => (source, tool_use),
            Ok((None, _)) => {
                let format = formats::choose(metadata, &vocabulary)?;
                return format.map(|format| Self::named(format, tokens)).transpose();
            }
            Err(error) => return Ok(Some(Self::broken(error, tokens))),
        };
        // Some files have an empty one, or only the name of what llama.cpp has built in.
        let format = match source.trim() {
            "" => Some(formats::choose(metadata, &vocabulary)?.unwrap_or("chatml")),
            name => formats::by_name(name),
        };
        if let Some(format) = format {
            return Self::named(format, tokens).map(Some);
        }
        let template = match source.contains("{{") || source.contains("{%") {
            true => Self::new("model", source, tool_use, tokens.clone()),
            false => Err(Error::unsupported_model(
                "the chat template has no place for a conversation: it is neither Jinja nor the name of a known format",
            )),
        };
        Ok(Some(template.unwrap_or_else(|error| Self::broken(error, tokens))))
    }

    /// One of the [named formats](formats), by its name. `invalid_argument` if there is none such.
    pub fn named(format: &str, tokens: SpecialTokens) -> Result<Self> {
        match formats::source(format) {
            Some(source) => Self::new(&format!("named:{format}"), &source, None, tokens),
            None => Err(Error::invalid_argument(format!("there is no chat format named {format}"))),
        }
    }

    /// A template from its Jinja source, and perhaps another for conversations with tools.
    /// Fails with `unsupported_model` if one does not parse.
    pub fn new(name: &str, source: &str, tool_use: Option<&str>, tokens: SpecialTokens) -> Result<Self> {
        let mut env = environment();
        for (key, text) in [(DEFAULT, Some(source)), (TOOL_USE, tool_use)] {
            let Some(text) = text else { continue };
            if text.len() > MAX_SOURCE {
                let message = format!("the chat template has {} bytes, more than {MAX_SOURCE}", text.len());
                return Err(Error::unsupported_model(message));
            }
            let unsupported =
                |message: &str| Error::unsupported_model(format!("the chat template: {message}"));
            let source = source::prepare(text).map_err(unsupported)?;
            env.add_template_owned(key, source).map_err(|error| unsupported(&describe(&error)))?;
        }
        let tool_use = tool_use.map(|_| OnceLock::new());
        Ok(ChatTemplate { env: Ok(env), name: name.to_owned(), needs: OnceLock::new(), tool_use, tokens })
    }

    /// A file's template that gives `error` instead of prompts.
    fn broken(error: Error, tokens: SpecialTokens) -> Self {
        let (name, needs) = ("model".to_owned(), OnceLock::new());
        ChatTemplate { env: Err(error), name, needs, tool_use: None, tokens }
    }

    /// `model` for the file's own template, or as in `named:chatml`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The prompt's text. Special tokens are written out in it, mostly also that of the beginning.
    ///
    /// Messages are fitted to what the template wants: content to strings or lists of parts, arguments
    /// of calls to objects or texts, and system messages that it would refuse or lose go into the
    /// user's. Fails with `invalid_argument` if a message is none for a text model, or the template
    /// refuses the conversation or cannot do with it; with `unsupported_model` if the template cannot
    /// be used.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        let env = self.env.as_ref().map_err(Error::clone)?;
        let continues = conversation.continue_final_message;
        if continues && conversation.add_generation_prompt == Some(true) {
            return Err(Error::invalid_argument(
                "continue_final_message and add_generation_prompt exclude each other",
            ));
        }
        let (key, needs) = match &self.tool_use {
            Some(needs) if conversation.tools.is_some() => (TOOL_USE, needs),
            _ => (DEFAULT, &self.needs),
        };
        let template = env.get_template(key).map_err(|error| failure(&error))?;
        let source = template.source();
        let needs = match needs.get() {
            Some(needs) => needs,
            None => {
                let found = self.find_needs(env, key, source)?;
                needs.get_or_init(|| found)
            }
        };
        let mut messages = messages::fit(&conversation.messages, needs, source)?;
        let continued = if continues { Some(continuation::mark(&mut messages)?) } else { None };

        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64;
        let open = conversation.add_generation_prompt.unwrap_or(!continues);
        let rendered = self
            .run(env, key, self.context(conversation, messages, open), fuel, conversation.now)
            .map_err(|failure| failure.error)?;
        match continued {
            Some(text) => continuation::cut(rendered, &text),
            None => Ok(rendered),
        }
    }

    fn find_needs(&self, env: &Environment<'static>, key: &str, source: &str) -> Result<Needs> {
        let now = LocalTime { unix_seconds: 0, utc_offset: 0 };
        Needs::find(source, |messages, with_tools| {
            let tools = (with_tools || key == TOOL_USE).then(|| vec![needs::tool()]);
            let context = self.context(&Conversation { tools, ..Conversation::default() }, messages, true);
            self.run(env, key, context, FUEL_FOR_NEEDS, Some(now))
        })
    }

    /// The template's variables.
    fn context(&self, conversation: &Conversation, messages: Vec<Json>, open: bool) -> Map<String, Json> {
        let mut context = self.tokens.clone();
        context.insert("documents".into(), Json::Null);
        context.extend(conversation.variables.clone());
        context.insert("messages".into(), Json::Array(messages));
        context.insert("tools".into(), conversation.tools.clone().map_or(Json::Null, Json::Array));
        context.insert("add_generation_prompt".into(), Json::Bool(open));
        context
    }

    fn run(
        &self,
        env: &Environment<'static>,
        key: &str,
        context: Map<String, Json>,
        fuel: u64,
        now: Option<LocalTime>,
    ) -> Result<String, RenderFailure> {
        // Cheap: an environment's parts are shared.
        let mut env = env.clone();
        env.set_fuel(Some(fuel));
        if let Some(now) = now {
            env.add_function("strftime_now", move |format: &str| now.strftime(format));
        }
        let context = python::from_json(Json::Object(context));
        budget::begin(&context);
        let mut output = Bounded(Vec::new());
        let rendered = env
            .get_template(key)
            .and_then(|template| template.render_captured_to(context, &mut output).map(drop));
        let excess = budget::end();
        let rendered = match rendered {
            _ if excess.is_some() => Err(Error::unsupported_model(TOO_MUCH)),
            Ok(()) => String::from_utf8(output.0).map_err(|_| Error::internal("a template wrote no UTF-8")),
            Err(error) => Err(failure(&error)),
        };
        rendered.map_err(|error| RenderFailure { error, late: excess == Some(Excess::Time) })
    }
}

/// The tokens' texts by the names that transformers gives them.
fn special_tokens(metadata: &Metadata, vocabulary: &[&[u8]]) -> Result<SpecialTokens> {
    let mut tokens = SpecialTokens::new();
    let keys = [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("sep_token", "seperator"),
        ("pad_token", "padding"),
        ("cls_token", "cls"),
        ("mask_token", "mask"),
    ];
    for (name, key) in keys {
        let id = metadata.integer(&format!("tokenizer.ggml.{key}_token_id"))?;
        if let Some(text) = id.and_then(|id| vocabulary.get(usize::try_from(id).ok()?)) {
            tokens.insert(name.to_owned(), Json::from(String::from_utf8_lossy(text)));
        }
    }
    Ok(tokens)
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_recursion_limit(RECURSION);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, _, value| {
        let shown = if value.as_str().is_none() { python::str(value) } else { String::new() };
        let text = value.as_str().unwrap_or(&shown);
        budget::write(text.len())?;
        out.write_str(text).map_err(minijinja::Error::from)
    });
    env.remove_global("debug");
    filters::register(&mut env);
    env.add_function("raise_exception", |message: &Value| -> Result<Value, minijinja::Error> {
        let message = python::str(message);
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
    });
    env
}

const TOO_MUCH: &str = "the chat template runs too long, or makes or writes too much";

/// What a template gives to `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn failure(error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Refusal(message)) = current.downcast_ref() {
            return Error::invalid_argument(format!(
                "the chat template refuses this conversation: {message}"
            ));
        }
        let kind = current.downcast_ref().map(minijinja::Error::kind);
        if matches!(kind, Some(ErrorKind::OutOfFuel)) || current.is::<io::Error>() {
            return Error::unsupported_model(TOO_MUCH);
        }
        cause = current.source();
    }
    Error::invalid_argument(format!("the chat template fails on this conversation: {}", describe(error)))
}

/// The error with its place, without the template's name and text.
fn describe(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {detail}"),
        None => detail,
    }
}

/// Refuses to grow without end.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > budget::max_output() {
            return Err(io::Error::other("the prompt grows without end"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
