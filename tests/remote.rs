//! Hosted models, against a server that plays them (`remote/server.js`).

mod bounds;
mod chat;
mod router;
mod schedule;
mod shapes;
mod tasks;

use crate::double::{Double, control};
use candlewick::openai::{Chunk, Chunks, Completion};
use candlewick::remote::{Client, Config, Retry, Token};
use candlewick::{Error, Result};
use futures_util::StreamExt;
use pollster::block_on;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;

const TOKEN: &str = "hf_secretsecretsecret";
const TEXT: &str = "Süße Grüße: 你好 🌍, it works.";

fn server() -> &'static str {
    static SERVER: OnceLock<Double> = OnceLock::new();
    SERVER.get_or_init(|| Double::start("remote/server.js")).addresses["url"].as_str().unwrap()
}

/// A router of this test's own.
pub(crate) struct World {
    name: String,
    /// Its base address.
    pub url: String,
}

impl World {
    pub(crate) fn new(name: &str, description: Value) -> World {
        control(server(), "PUT", &format!("/_/{name}"), &description.to_string());
        World { name: name.to_owned(), url: format!("{}/{name}/v1", server()) }
    }

    pub(crate) fn with(name: &str, script: &[&str]) -> World {
        World::new(name, json!({ "script": script }))
    }

    /// What was asked of it: an array of requests.
    pub(crate) fn log(&self) -> Vec<Value> {
        let state: Value =
            serde_json::from_str(&control(server(), "GET", &format!("/_/{}", self.name), "")).unwrap();
        state["log"].as_array().unwrap().clone()
    }

    fn config(&self) -> Config {
        let quick = Duration::from_millis(1);
        Config {
            name: Some("double".into()),
            base_url: self.url.clone(),
            token: Some(Token::new(TOKEN).unwrap()),
            retry: Retry { base: quick, cap: quick, loading: quick, ..Retry::default() },
            ..Config::default()
        }
    }

    fn client(&self) -> Client {
        Client::new(self.config()).unwrap()
    }
}

fn ask(stream: bool) -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }], "stream": stream })
}

/// All chunks, and the error that ended them.
fn collect(mut chunks: Chunks) -> (Vec<Chunk>, Option<Error>) {
    let mut all = Vec::new();
    block_on(async {
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => all.push(chunk),
                Err(error) => return (all, Some(error)),
            }
        }
        (all, None)
    })
}

fn whole(chunks: Result<Chunks>) -> Result<Completion> {
    block_on(candlewick::remote::whole(chunks?))
}
