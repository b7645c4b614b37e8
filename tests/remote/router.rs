//! Local or hosted, and why; the cache, the bill, comparisons.

use super::{TEXT, TOKEN, World, ask, block_on, collect, whole};
use crate::fixtures::{path, stories};
use candlewick::engine::{Device, Engine, Options};
use candlewick::http::OnRetry;
use candlewick::openai::{Chunks, EmbeddingRequest, Embeddings, Endpoint, Ran};
use candlewick::remote::cost::Budget;
use candlewick::remote::{Client, Config};
use candlewick::router::{
    Cache, CacheOptions, Capabilities, Hosted, Local, Policy, Provider, Route, Router, When, compare,
};
use candlewick::store::{FileSource, MemoryStore, Store};
use candlewick::{Code, Error, Result};
use futures_util::StreamExt;
use futures_util::future::{LocalBoxFuture, pending};
use futures_util::stream::{iter, once};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

fn hosted(world: &World) -> Hosted {
    Hosted { client: world.client(), model: "org/large".into() }
}

async fn load(model: PathBuf) -> Result<Local> {
    let source = FileSource::open(&model)?;
    let options = Options { device: Device::Cpu, ..Options::default() };
    Ok(Local(Engine::load(Rc::new(source), &options, &mut |_| Ok(())).await?))
}

fn local(name: &str, model: PathBuf) -> Route {
    Route::local(
        name,
        Box::new(move || {
            let model = model.clone();
            Box::pin(async move { Ok(Rc::new(load(model).await?) as Rc<dyn Provider>) })
        }),
    )
}

#[test]
fn who_waits_for_a_model_that_cannot_be_loaded_hears_why() {
    let opened = Rc::new(Cell::new(0));
    let count = opened.clone();
    let open = move || -> LocalBoxFuture<'static, Result<Rc<dyn Provider>>> {
        count.set(count.get() + 1);
        Box::pin(async {
            candlewick::http::sleep(Duration::from_millis(20)).await;
            Err(Error::quota_exceeded("the wick is short"))
        })
    };
    let route = Route::local("short", Box::new(open));
    let router = Router::new(vec![route], policy(When::Never), None).unwrap();
    let answers = [(); 2].map(|()| router.open());
    for opening in block_on(futures_util::future::join_all(answers)) {
        let error = opening.err().unwrap();
        assert!(error.message.contains("the wick is short"), "{error}");
    }
    assert_eq!(opened.get(), 1);
}

/// A local model that can be loaded, and then goes wrong.
struct Broken(Code);

impl Provider for Broken {
    fn ran(&self) -> Ran {
        Ran::Local
    }
    fn provider(&self) -> String {
        "gpu".into()
    }
    fn model(&self) -> String {
        "broken".into()
    }
    fn identity(&self) -> String {
        "broken".into()
    }
    fn capabilities(&self) -> LocalBoxFuture<'_, Result<Capabilities>> {
        Box::pin(async { Ok(Capabilities::default()) })
    }
    fn answer(&self, _: Endpoint, _: Value) -> LocalBoxFuture<'_, Result<Chunks>> {
        let error = Error { code: self.0, message: "it broke".into() };
        // Aborted stands for one that never says anything.
        let chunks = match self.0 {
            Code::Aborted => once(pending()).boxed_local(),
            _ => iter([Err(error)]).boxed_local(),
        };
        Box::pin(async move { Ok(chunks) })
    }
    fn embed<'a>(&'a self, _: &'a EmbeddingRequest, _: OnRetry) -> LocalBoxFuture<'a, Result<Embeddings>> {
        Box::pin(async move { Err(Error { code: self.0, message: "it broke".into() }) })
    }
}

fn broken(code: Code) -> Route {
    Route::local(
        "broken",
        Box::new(move || Box::pin(async move { Ok(Rc::new(Broken(code)) as Rc<dyn Provider>) })),
    )
}

fn policy(when: When) -> Policy {
    Policy { when, ..Policy::default() }
}

fn router(routes: Vec<Route>, when: When) -> Router {
    Router::new(routes, policy(when), None).unwrap()
}

fn greedy() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }], "temperature": 0, "max_tokens": 5 })
}

#[test]
fn local_as_long_as_it_goes() {
    let world = World::with("router-local", &[]);
    let routes = || vec![local("qwen", path("models/qwen2.gguf")), Route::hosted(hosted(&world))];
    for when in [When::Needed, When::Never] {
        let router = router(routes(), when);
        let answer = whole(router.answer(Endpoint::Chat, greedy())).unwrap();
        let origin = answer.origin().unwrap();
        assert_eq!((origin.ran, origin.provider.as_str(), origin.attempts), (Ran::Local, "cpu", 1));
        assert!(!origin.reason.is_empty());
        assert_eq!(router.active().unwrap().ran(), Ran::Local);
    }
    assert!(world.log().is_empty());
    let answer = whole(router(routes(), When::Always).answer(Endpoint::Chat, ask(true))).unwrap();
    let origin = answer.origin().unwrap();
    assert_eq!(
        (answer.text(), origin.ran, origin.reason.as_str()),
        (TEXT, Ran::Remote, "when is \"always\"")
    );
}

#[test]
fn hosted_where_needed() {
    let world = World::with("router-needed", &[]);
    let answer = |first: Route, body: Value| {
        let router = router(vec![first, Route::hosted(hosted(&world))], When::Needed);
        let answer = whole(router.answer(Endpoint::Chat, body)).unwrap();
        assert_eq!(answer.text(), TEXT);
        let origin = answer.origin().unwrap().clone();
        assert_eq!((origin.ran, origin.model.as_str(), origin.attempts), (Ran::Remote, "org/large", 1));
        origin.reason
    };
    // No such file, no model of ours, not enough context, gone in the middle.
    assert!(answer(local("gone", "gone.gguf".into()), ask(true)).contains("[model_not_found]"));
    let vocabulary = local("vocabulary", path("tokenizers/bpe.gguf"));
    assert!(answer(vocabulary, ask(true)).contains("[unsupported_model]"));
    let mut long = ask(true);
    long["messages"][0]["content"] = "long ".repeat(5000).into();
    let reason = answer(local("qwen", path("models/qwen2.gguf")), long);
    assert!(reason.starts_with("qwen: ") && reason.contains("[context_length_exceeded]"), "{reason}");
    let mut picture = ask(true);
    picture["messages"][0]["content"] = json!([{ "type": "image_url", "image_url": { "url": "data:," } }]);
    let reason = answer(local("qwen", path("models/qwen2.gguf")), picture);
    assert!(reason.contains("it cannot see pictures"), "{reason}");
    let slow = Route::local(
        "slow",
        Box::new(|| {
            Box::pin(async {
                let source = Rc::new(FileSource::open(&path("models/qwen2.gguf"))?);
                let options =
                    Options { device: Device::Cpu, min_tokens_per_second: Some(1e12), ..Options::default() };
                Ok(Rc::new(Local(Engine::load(source, &options, &mut |_| Ok(())).await?)) as Rc<dyn Provider>)
            })
        }),
    );
    let reason = answer(slow, ask(true));
    assert!(
        reason.contains("tokens a second on the CPU") && reason.contains("[resource_exhausted]"),
        "{reason}"
    );
    for code in [Code::DeviceLost, Code::ResourceExhausted, Code::Internal] {
        assert_eq!(answer(broken(code), ask(true)), format!("broken: it broke [{code}]"));
    }
}

#[test]
fn never_is_never() {
    let world = World::with("router-never", &[]);
    for code in [Code::DeviceLost, Code::ResourceExhausted] {
        let router = router(vec![broken(code), Route::hosted(hosted(&world))], When::Never);
        assert_eq!(whole(router.answer(Endpoint::Chat, ask(true))).unwrap_err().code, code);
    }
    let only_hosted = Router::new(vec![Route::hosted(hosted(&world))], policy(When::Never), None);
    assert_eq!(only_hosted.err().unwrap().code, Code::InvalidArgument);
    assert!(world.log().is_empty());
}

#[test]
fn what_does_not_fit() {
    let model = path("models/qwen2.gguf");
    let size = std::fs::metadata(&model).unwrap().len();
    let source = FileSource::open(&model).unwrap();
    let fits = |limit| {
        let options = Options { max_memory: Some(limit), ..Options::default() };
        block_on(candlewick::engine::fits(&source, &options))
    };
    assert_eq!(fits(size / 2).unwrap_err().code, Code::ResourceExhausted);
    fits(100 * size).unwrap();
}

#[test]
fn what_is_wrong_is_wrong_everywhere() {
    let world = World::with("router-wrong", &[]);
    let router =
        router(vec![local("qwen", path("models/qwen2.gguf")), Route::hosted(hosted(&world))], When::Needed);
    let mut body = greedy();
    body["temperature"] = json!(-1);
    assert_eq!(whole(router.answer(Endpoint::Chat, body)).unwrap_err().code, Code::InvalidArgument);
    assert_eq!(router.answer(Endpoint::Chat, json!([])).err().unwrap().code, Code::InvalidArgument);
    assert!(world.log().is_empty());
}

#[test]
fn fallbacks_in_order() {
    let down = World::with("router-down", &["401"]);
    let up = World::with("router-up", &["cut-middle"]);
    let routes = vec![
        local("gone", "gone.gguf".into()),
        broken(Code::DeviceLost),
        Route::hosted(hosted(&down)),
        Route::hosted(hosted(&up)),
    ];
    let router = router(routes, When::Needed);
    // After the first text there is no other route.
    let (chunks, error) = collect(router.answer(Endpoint::Chat, ask(true)).unwrap());
    assert_eq!(error.unwrap().code, Code::Network);
    assert!(chunks.iter().any(|chunk| chunk.says_something()));
    let answer = whole(router.answer(Endpoint::Chat, ask(true))).unwrap();
    // What is lost for good is not tried again: the second time the first hosted one answers.
    let origin = answer.origin().unwrap();
    assert_eq!((answer.text(), down.log().len(), up.log().len()), (TEXT, 2, 1));
    assert!(origin.reason.contains("gone: ") && origin.reason.contains("broken: it broke [device_lost]"));

    // All fail: the last failure, and in its words the others.
    let down = World::with("router-all-down", &["404"]);
    let router =
        super::router::router(vec![broken(Code::DeviceLost), Route::hosted(hosted(&down))], When::Needed);
    let error = whole(router.answer(Endpoint::Chat, ask(true))).unwrap_err();
    assert_eq!(error.code, Code::ModelNotFound);
    assert!(error.message.contains("Before that: broken: it broke [device_lost]"), "{error}");
    // Loading alone goes the same way.
    let (provider, reason) = block_on(
        super::router::router(
            vec![local("gone", "gone.gguf".into()), Route::hosted(hosted(&up))],
            When::Needed,
        )
        .open(),
    )
    .unwrap();
    assert_eq!(provider.ran(), Ran::Remote);
    assert!(reason.starts_with("gone: "), "{reason}");
}

#[test]
fn a_first_token_that_does_not_come() {
    let world = World::with("router-slow", &[]);
    let policy = Policy { when: When::Needed, first_token: Some(Duration::from_millis(1)) };
    let router =
        Router::new(vec![broken(Code::Aborted), Route::hosted(hosted(&world))], policy, None).unwrap();
    let answer = whole(router.answer(Endpoint::Chat, ask(true))).unwrap();
    assert_eq!(answer.origin().unwrap().reason, "broken: no token within 1 ms [resource_exhausted]");
}

#[test]
fn answers_are_kept() {
    let world = World::with("router-cache", &[]);
    let routes = vec![Route::hosted(hosted(&world))];
    let router =
        Router::new(routes, policy(When::Always), Some(Cache::new(CacheOptions::default()))).unwrap();
    let ask = |body: Value| whole(router.answer(Endpoint::Chat, body)).unwrap();
    let first = ask(greedy());
    let second = ask(greedy());
    assert_eq!((first.text(), second.text(), world.log().len()), (TEXT, TEXT, 1));
    assert!(!first.origin().unwrap().cached);
    let origin = second.origin().unwrap();
    assert_eq!((origin.cached, origin.attempts, origin.ran), (true, 0, Ran::Remote));
    // Another run finds it in the store, as it was.
    let store: Rc<dyn Store> = Rc::new(MemoryStore::default());
    let [kept, found] = [(); 2].map(|()| {
        let cache = Cache::stored(CacheOptions::default(), store.clone());
        let router = Router::new(vec![Route::hosted(hosted(&world))], policy(When::Always), Some(cache));
        serde_json::to_value(whole(router.unwrap().answer(Endpoint::Chat, greedy())).unwrap()).unwrap()
    });
    assert_eq!((&kept["candlewick"]["attempts"], world.log().len()), (&json!(1), 2));
    assert_eq!(found["candlewick"]["cached"], true);
    for field in ["id", "created", "model", "choices", "usage", "system_fingerprint"] {
        assert_eq!(found[field], kept[field], "{field}");
    }
    // A stream of the same, and what is not the same.
    let mut stream = greedy();
    stream["stream"] = json!(true);
    assert_eq!(ask(stream).text(), TEXT);
    assert_eq!(world.log().len(), 2);
    ask(super::ask(true));
    ask(super::ask(true));
    assert_eq!(world.log().len(), 4, "what is drawn at random is drawn anew");
    let mut seeded = super::ask(true);
    seeded["seed"] = json!(1);
    ask(seeded.clone());
    ask(seeded);
    assert_eq!(world.log().len(), 5);
    // Two at the same time are one.
    let mut other = greedy();
    other["seed"] = json!(5);
    let both = [other.clone(), other]
        .map(|body| candlewick::remote::whole(router.answer(Endpoint::Chat, body).unwrap()));
    let texts = block_on(futures_util::future::join_all(both));
    assert!(texts.iter().all(|answer| answer.as_ref().unwrap().text() == TEXT));
    assert_eq!(world.log().len(), 6);

    // Local answers too.
    let routes = vec![local("stories", stories())];
    let router = Router::new(routes, policy(When::Never), Some(Cache::new(CacheOptions::default()))).unwrap();
    let body = json!({ "prompt": "Once", "temperature": 0, "max_tokens": 5 });
    let first = whole(router.answer(Endpoint::Completions, body.clone())).unwrap();
    let second = whole(router.answer(Endpoint::Completions, body)).unwrap();
    assert_eq!(first.text(), second.text());
    assert!(second.origin().unwrap().cached && !first.origin().unwrap().cached);
}

#[test]
fn the_bill() {
    let world = World::with("bill", &[]);
    let config = Config { budget: Budget { dollars: Some(0.0001), ..Budget::default() }, ..world.config() };
    let client = Client::new(config).unwrap();
    let answer = whole(client.chat("org/large:cheap", ask(true))).unwrap();
    let usage = answer.usage().unwrap();
    // The double says that "fast" served it: 2 and 6 dollars a million.
    let price = (usage.prompt_tokens as f64 * 2.0 + usage.completion_tokens as f64 * 6.0) / 1e6;
    let cost = answer.origin().unwrap().cost.unwrap();
    assert!((cost - price).abs() < 1e-12 && cost > 0.0, "{cost} {price}");
    let error = loop {
        if let Err(error) = whole(client.chat("org/large:cheap", ask(true))) {
            break error;
        }
    };
    assert_eq!(error.code, Code::ResourceExhausted);
    let totals = client.totals();
    assert!(totals.dollars >= 0.00009 && totals.requests > 1, "{totals:?}");
    assert_eq!((totals.unpriced, totals.estimated), (0, 0));
    assert_eq!(world.log().len() as u64, totals.requests + 1, "the list of models, and each answer");

    // Who leaves early pays for what came.
    let world = World::new("bill-hang", json!({ "script": [{ "after": 3, "hang": true }] }));
    let client = world.client();
    let mut chunks = client.chat("org/large", ask(true)).unwrap();
    block_on(chunks.next()).unwrap().unwrap();
    drop(chunks);
    let totals = client.totals();
    assert!(totals.estimated == 1 && totals.completion_tokens > 0 && totals.unpriced == 1, "{totals:?}");
}

#[test]
fn abilities() {
    let world = World::with("abilities", &[]);
    let capabilities = |model: &str| {
        let hosted = Hosted { client: world.client(), model: model.into() };
        block_on(hosted.capabilities())
    };
    let large = capabilities("org/large").unwrap();
    assert_eq!(
        (large.tools, large.vision, large.json, large.context),
        (Some(true), Some(true), Some(true), Some(131_072))
    );
    let cheap = capabilities("org/large:cheap").unwrap();
    assert_eq!((cheap.tools, cheap.json, cheap.context), (Some(false), Some(false), Some(32_768)));
    let small = capabilities("org/small").unwrap();
    assert_eq!((small.tools, small.vision, small.context), (None, None, Some(4096)));
    assert_eq!(capabilities("org/none").unwrap_err().code, Code::ModelNotFound);
    let local = block_on(async { load(path("models/qwen2.gguf")).await?.capabilities().await }).unwrap();
    assert!(local.streaming && local.vision == Some(false) && local.context.is_some());
}

#[test]
fn comparisons() {
    let (world, other) = (World::with("compare", &["503"]), World::with("compare-gone", &[]));
    let gone = Hosted { client: other.client(), model: "org/none".into() };
    let models: Vec<Rc<dyn Provider>> = vec![
        Rc::new(block_on(load(path("models/qwen2.gguf"))).unwrap()),
        Rc::new(hosted(&world)),
        Rc::new(gone),
    ];
    let mut body = greedy();
    body["stream"] = json!(true);
    let retried = RefCell::new(Vec::new());
    let all = block_on(compare(&models, Endpoint::Chat, &body, &|model, retry| {
        retried.borrow_mut().push((model.model(), retry.attempt, retry.code));
    }));
    assert_eq!(retried.take(), [("org/large".to_owned(), 1, "provider_error")]);
    assert_eq!(all.iter().map(|one| one.ran).collect::<Vec<_>>(), [Ran::Local, Ran::Remote, Ran::Remote]);
    assert_eq!((all[1].text.as_str(), all[1].error), (TEXT, None));
    assert_eq!((all[2].text.as_str(), all[2].error), ("", Some("model_not_found")));
    for one in &all[..2] {
        assert!(
            one.usage.is_some()
                && one.finish_reason.is_some()
                && one.first_token_ms.unwrap() <= one.milliseconds
        );
    }
    assert!(!serde_json::to_string(&all).unwrap().contains(TOKEN));
}
