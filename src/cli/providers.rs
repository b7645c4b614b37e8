//! Which hosted models there are: the configuration file and the environment, and `candlewick provider`.

use super::Outcome;
use super::arguments::{AddArguments, Common, ProviderCommand};
use super::output::{replace_file, say, stdout};
use super::read_stdin;
use crate::http::Token;
use crate::remote::{Client, Config, HUGGING_FACE, Retry, whole};
use crate::router::Hosted;
use crate::store::FolderStore;
use crate::{Error, Result, json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Hugging Face's router, which needs no configuration but a token.
const HF: &str = "hf";
/// Stands for the default provider.
const DEFAULT: &str = "remote";
/// The provider that the environment describes.
const ENV: &str = "env";

/// The configuration file.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Providers {
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    providers: BTreeMap<String, ProviderConfig>,
}

/// No `Debug`: it may hold a token.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderConfig {
    #[serde(rename = "baseURL")]
    base_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The variable that the token is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bill_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<u64>,
}

/// The hosted model that a MODEL on the command line names: `hf:org/name`, `remote`, `PROVIDER` or
/// `PROVIDER:model`. Anything else, and any file of that name, is a local model.
pub(super) fn hosted(name: &str, common: &Common) -> Result<Option<Hosted>> {
    let (provider, model) = match name.split_once(':') {
        Some((provider, model)) => (provider, Some(model)),
        None => (name, None),
    };
    // What cannot be a provider's name needs no look at the configuration.
    if check_name(provider).is_err() || (provider != HF && Path::new(name).exists()) {
        return Ok(None);
    }
    let all = Providers::read()?;
    match all.find(provider) {
        Some((name, found)) => found.open(&name, model, common).map(Some),
        None if provider == DEFAULT => {
            Err(Error::invalid_argument("there is no default provider yet: candlewick provider default NAME"))
        }
        None => Ok(None),
    }
}

impl ProviderConfig {
    fn hugging_face() -> ProviderConfig {
        ProviderConfig { base_url: HUGGING_FACE.into(), ..ProviderConfig::default() }
    }

    /// From `CANDLEWICK_BASE_URL`, `CANDLEWICK_MODEL` and `CANDLEWICK_API_KEY`.
    fn from_environment() -> Option<ProviderConfig> {
        let base_url = variable("CANDLEWICK_BASE_URL")?;
        let token_env = Some("CANDLEWICK_API_KEY".to_owned());
        Some(ProviderConfig {
            base_url,
            model: variable("CANDLEWICK_MODEL"),
            token_env,
            ..ProviderConfig::default()
        })
    }

    fn token(&self, name: &str, common: &Common) -> Result<Option<Token>> {
        match (&self.token, &self.token_env) {
            (Some(token), _) => Token::new(token).map(Some),
            (None, Some(name)) => variable(name).map(|token| Token::new(&token)).transpose(),
            (None, None) if name == HF => {
                Ok(common.token.clone().or_else(|| Token::from_environment(&FolderStore::home())))
            }
            (None, None) => Ok(None),
        }
    }

    fn client(&self, name: &str, common: &Common) -> Result<Client> {
        let defaults = Retry::default();
        let timeout = self.timeout_seconds.map_or(defaults.timeout, Duration::from_secs);
        Client::new(Config {
            name: Some(name.to_owned()),
            base_url: self.base_url.clone(),
            token: self.token(name, common)?,
            bill_to: self.bill_to.clone(),
            retry: Retry { timeout, ..defaults },
            ..Config::default()
        })
    }

    fn open(&self, name: &str, model: Option<&str>, common: &Common) -> Result<Hosted> {
        let model = model.filter(|model| !model.is_empty()).or(self.model.as_deref());
        let model = model.ok_or_else(|| {
            Error::invalid_argument(format!(
                "which model of {name}? Write {name}:MODEL, or give it a default one"
            ))
        })?;
        Ok(Hosted { client: self.client(name, common)?, model: model.to_owned() })
    }
}

impl Providers {
    /// `CANDLEWICK_CONFIG`, or `candlewick/providers.json` where the system keeps configurations.
    fn path() -> Result<PathBuf> {
        if let Some(path) = variable("CANDLEWICK_CONFIG") {
            return Ok(path.into());
        }
        let folder = match cfg!(windows) {
            true => variable("APPDATA").map(PathBuf::from),
            false => variable("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| Some(std::env::home_dir()?.join(".config"))),
        };
        let folder = folder
            .ok_or_else(|| Error::invalid_argument("no home folder: set CANDLEWICK_CONFIG to a file"))?;
        Ok(folder.join("candlewick/providers.json"))
    }

    fn read() -> Result<Providers> {
        let path = Providers::path()?;
        match std::fs::read(&path) {
            Ok(text) => {
                let value = serde_json::from_slice(&text)
                    .map_err(|error| Error::invalid_argument(format!("{}: {error}", path.display())))?;
                json::read("", &value).map_err(|error| error.context(path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Providers::default()),
            Err(error) => Err(Error::invalid_argument(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Replaces the file, readable for the user alone.
    fn write(&self) -> Result<()> {
        let path = Providers::path()?;
        let failed = |error: std::io::Error| {
            Error::invalid_argument(format!("cannot write {}: {error}", path.display()))
        };
        let text = serde_json::to_vec_pretty(self).map_err(Error::internal)?;
        replace_file(&path, &text).map_err(failed)
    }

    /// Every provider: those of the file, and those that need none.
    fn all(&self) -> BTreeMap<String, ProviderConfig> {
        let mut all = BTreeMap::from([(HF.to_owned(), ProviderConfig::hugging_face())]);
        all.extend(ProviderConfig::from_environment().map(|provider| (ENV.to_owned(), provider)));
        all.extend(self.providers.clone());
        all
    }

    /// The default is the one that was chosen, else the environment's.
    fn default_name(&self) -> Option<String> {
        self.default.clone().or_else(|| ProviderConfig::from_environment().map(|_| ENV.to_owned()))
    }

    fn find(&self, name: &str) -> Option<(String, ProviderConfig)> {
        let name = if name == DEFAULT { self.default_name()? } else { name.to_owned() };
        let provider = self.all().remove(&name)?;
        Some((name, provider))
    }

    fn named(&self, name: &str) -> Result<(String, ProviderConfig)> {
        self.find(name).ok_or_else(|| {
            let known = self.all().into_keys().collect::<Vec<_>>().join(", ");
            Error::invalid_argument(format!("there is no provider {name}. There are: {known}"))
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // One letter is a drive.
    match name.len() > 1 && name.bytes().all(good) {
        true => Ok(()),
        false => Err(Error::invalid_argument(format!(
            "a provider's name has letters, digits, - and _, not {name:?}"
        ))),
    }
}

pub(super) async fn provider(command: &ProviderCommand, common: &Common) -> Outcome {
    match command {
        ProviderCommand::Add(arguments) => add(arguments, common),
        ProviderCommand::List { json } => list(*json, common),
        ProviderCommand::Test { name } => test(name.as_deref(), common).await,
        ProviderCommand::Models { name, json } => models(name.as_deref(), *json, common).await,
        ProviderCommand::Default { name } => {
            let mut all = Providers::read()?;
            all.named(name)?;
            all.default = Some(name.clone());
            Ok(all.write()?)
        }
        ProviderCommand::Rm { name } => {
            let mut all = Providers::read()?;
            if all.providers.remove(name).is_none() {
                let message = format!("there is no provider {name} in {}", Providers::path()?.display());
                return Err(Error::invalid_argument(message).into());
            }
            all.default.take_if(|default| default == name);
            Ok(all.write()?)
        }
    }
}

fn add(arguments: &AddArguments, common: &Common) -> Outcome {
    let name = &arguments.name;
    check_name(name)?;
    if name == DEFAULT {
        return Err(Error::invalid_argument(format!("{DEFAULT:?} stands for the default provider")).into());
    }
    let base_url = match (&arguments.url, name.as_str()) {
        (Some(url), _) => url.clone(),
        (None, HF) => HUGGING_FACE.to_owned(),
        (None, _) => return Err(Error::invalid_argument("--url is missing: where is the provider?").into()),
    };
    let token = arguments.token_stdin.then(read_stdin).transpose()?.map(|token| token.trim().to_owned());
    let provider = ProviderConfig {
        base_url,
        model: arguments.model.clone(),
        token_env: arguments.token_env.clone(),
        token,
        bill_to: arguments.bill_to.clone(),
        timeout_seconds: arguments.timeout,
    };
    // What cannot work is not kept. A variable may be set later.
    ProviderConfig { token_env: None, ..provider.clone() }.client(name, common)?;
    let mut all = Providers::read()?;
    all.providers.insert(name.clone(), provider);
    if arguments.default {
        all.default = Some(name.clone());
    }
    Ok(all.write()?)
}

fn list(as_json: bool, common: &Common) -> Outcome {
    let all = Providers::read()?;
    let default = all.default_name();
    let mut stdout = stdout();
    let mut rows = Vec::new();
    for (name, provider) in all.all() {
        let token = match (&provider.token, &provider.token_env) {
            (Some(_), _) => "in the file".to_owned(),
            (None, Some(variable)) => format!("from {variable}"),
            (None, None) if name == HF => "Hugging Face's".to_owned(),
            (None, None) => "none".to_owned(),
        };
        // A token that is missing or wrong is no reason not to list the others.
        let ready = name != HF && provider.token_env.is_none()
            || matches!(provider.token(&name, common), Ok(Some(_)));
        let is_default = default.as_deref() == Some(&name);
        rows.push(serde_json::json!({
            "name": name, "baseURL": provider.base_url, "model": provider.model,
            "token": token, "ready": ready, "default": is_default,
        }));
    }
    if as_json {
        writeln!(stdout, "{}", serde_json::json!({ "providers": rows }))?;
        return Ok(());
    }
    for row in rows {
        let text = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
        let mark = if row["default"] == true { "*" } else { " " };
        let missing = if row["ready"] == true { "" } else { " (missing)" };
        let (name, url, model) = (text("name"), text("baseURL"), text("model"));
        writeln!(stdout, "{mark} {name:<12} {url:<40} model {model}, token {}{missing}", text("token"))?;
    }
    Ok(())
}

/// One small question.
async fn test(name: Option<&str>, common: &Common) -> Outcome {
    let (name, provider) = Providers::read()?.named(name.unwrap_or(DEFAULT))?;
    let hosted = match &provider.model {
        Some(_) => provider.open(&name, None, common)?,
        None => {
            let client = provider.client(&name, common)?;
            let count = client.models().await?.len();
            let mut stdout = stdout();
            writeln!(stdout, "{name} answers and offers {count} models; it has no default model to ask")?;
            return Ok(());
        }
    };
    let began = Instant::now();
    let body = serde_json::json!({ "messages": [crate::chat::message("user", "Say OK.")], "stream": true });
    let answer = whole(hosted.client.chat(&hosted.model, body)?).await?;
    let attempts = answer.origin().map_or(1, |origin| origin.attempts);
    let seconds = began.elapsed().as_secs_f64();
    let mut stdout = stdout();
    writeln!(
        stdout,
        "{name}: {} answered in {seconds:.1} s, {attempts} attempt(s): {:?}",
        hosted.model,
        answer.text()
    )?;
    Ok(())
}

/// What a provider offers.
async fn models(name: Option<&str>, as_json: bool, common: &Common) -> Outcome {
    let (name, provider) = Providers::read()?.named(name.unwrap_or(DEFAULT))?;
    let models = provider.client(&name, common)?.models().await?;
    let mut stdout = stdout();
    if as_json {
        writeln!(stdout, "{}", serde_json::json!({ "models": *models }))?;
        return Ok(());
    }
    for model in models.iter() {
        writeln!(stdout, "{}", model.id)?;
        for provider in model.providers.iter().filter(|provider| provider.live) {
            let context = provider.context_length.map_or("?".to_owned(), |tokens| tokens.to_string());
            let price =
                provider.price.map_or("?".to_owned(), |price| format!("{} / {}", price.input, price.output));
            writeln!(
                stdout,
                "    :{:<16} context {context:<9} $ for a million tokens, in / out: {price}",
                provider.name
            )?;
        }
    }
    if models.is_empty() {
        say!("{name} lists no models");
    }
    Ok(())
}
