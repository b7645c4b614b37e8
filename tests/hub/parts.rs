//! Models that are no single file with a name of its own: split ones, and files of the same name at several addresses.

use super::World;
use super::download::{COMMIT, SIZES, client, digest, folder_store, quiet};
use crate::fixtures::path;
use candlewick::engine::{Device, Options, Progress};
use candlewick::hub::{Models, Report, Spec, Verification};
use candlewick::load::load_model;
use candlewick::store::{MemoryStore, Source, Store};
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;

fn part(index: u32) -> String {
    format!("llama-split-{index:05}-of-00002.gguf")
}

/// The parts of a model, by whatever names.
fn world(name: &str, files: [&str; 2]) -> World {
    let file = |index| json!({ "file": path("models").join(part(index)) });
    let files = json!({ files[0]: file(1), files[1]: file(2) });
    World::new(name, json!({ "repos": { "a/b": { "commit": COMMIT, "files": files } } }))
}

/// The address of a file on a host that is not the Hub's.
fn address(world: &World, file: &str) -> String {
    format!("{}/a/b/resolve/main/{file}", world.url.replace("127.0.0.1", "localhost"))
}

fn joined() -> (String, u64) {
    let whole = candlewick::store::open_file(&path("models").join(part(1))).unwrap();
    (digest(whole.as_ref()).unwrap(), whole.len())
}

fn opened(models: &Models, spec: &Spec) -> Result<String, Error> {
    digest(&block_on(models.open(spec, false, quiet()))?)
}

fn files(urls: &[String]) -> Spec {
    Spec::of_files(urls, None).unwrap()
}

#[test]
fn parts_at_any_address() {
    let world = world("parts", [&part(1), &part(2)]);
    let (expected, len) = joined();
    let folder = tempfile::tempdir().unwrap();
    let models = Models::new(client(&world, None), folder_store(folder.path()));
    let urls = [2, 1].map(|index| address(&world, &part(index)));
    // Any of them, with what follows the `?`; or all, in any order.
    let specs = [format!("{}?key=x", urls[1]).parse().unwrap(), urls[0].parse().unwrap(), files(&urls)];
    for spec in &specs {
        assert_eq!(opened(&models, spec).unwrap(), expected, "{spec}");
        block_on(models.pull(spec, false, quiet())).unwrap();
        let listed = block_on(models.list()).unwrap();
        let [model] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((&model.model, model.keys.len(), model.complete, model.size), (&part(1), 2, true, len));
        assert_eq!(block_on(models.peek(spec)).unwrap().cached().commit, model.commit);
        assert_eq!(block_on(models.verify(model, &mut |_| Ok(()))).unwrap(), Verification::Unknown);
        assert_eq!(block_on(models.cached(spec)).unwrap().len(), 1);
    }
    let options = Options { device: Device::Cpu, ..Options::default() };
    let model = Rc::new(block_on(models.open(&specs[0], false, quiet())).unwrap());
    assert_eq!(block_on(load_model(model, &options, &mut |_| Ok(()))).unwrap().info().file_size, len);
    // Without a network there is what is there.
    let offline = Models::new(client(&world, None).offline(true), folder_store(folder.path()));
    specs.iter().for_each(|spec| assert_eq!(opened(&offline, spec).unwrap(), expected));
    assert_eq!(block_on(models.remove(&specs[1])).unwrap(), len);
    assert_eq!(block_on(models.list()).unwrap(), []);
}

#[test]
fn parts_that_are_not_all_there() {
    let world = world("parts-missing", [&part(1), "elsewhere.gguf"]);
    let models = Models::new(client(&world, None), Rc::new(MemoryStore::default()));
    let fails = |spec: Result<Spec, Error>, code, words: &str| {
        let error = spec.and_then(|spec| opened(&models, &spec)).unwrap_err();
        assert!(error.code == code && error.message.contains(words), "{error}");
    };
    let url = address(&world, &part(1));
    fails(url.parse(), Code::ModelNotFound, "llama-split-00002-of-00002.gguf: localhost");
    fails(url.parse(), Code::ModelNotFound, "in 2 files, and needs them all");
    let of = |index: u32, count: u32| address(&world, &format!("m-{index:05}-of-{count:05}.gguf"));
    fails(of(1, 99_999).parse(), Code::UnsupportedModel, "a model in 99999 files");
    fails(Ok(files(&[of(1, 3), of(3, 3)])), Code::ModelNotFound, "m-00002-of-00003.gguf is missing");
    fails(Ok(files(&[of(1, 2), of(1, 2)])), Code::InvalidArgument, "given twice");
    let list =
        |texts: &[&str]| Spec::of_files(&texts.iter().map(ToString::to_string).collect::<Vec<_>>(), None);
    fails(list(&[]), Code::InvalidArgument, "a list is one model");
    fails(list(&["a/b", "a/c"]), Code::InvalidArgument, "a list is one model");
    fails(list(&["a/b/x.gguf", &url]), Code::InvalidArgument, "a list is one model");
    let [one, two] = [1, 2].map(|index| format!("https://huggingface.co/a/b/blob/main/{}", part(index)));
    assert_eq!(list(&[&two, &one]).unwrap(), one.parse().unwrap());
    assert_eq!(list(&[&two]).unwrap(), two.parse().unwrap());
}

/// Where names say nothing, the parts' headers do.
#[test]
fn parts_of_any_name() {
    let world = world("parts-named", ["b.gguf", "a.gguf"]);
    let (expected, len) = joined();
    let models = Models::new(client(&world, None), Rc::new(MemoryStore::default()));
    let [one, two] = ["b.gguf", "a.gguf"].map(|name| address(&world, name));
    for urls in [[one.clone(), two.clone()], [two.clone(), one.clone()]] {
        assert_eq!(opened(&models, &files(&urls)).unwrap(), expected);
        block_on(models.pull(&files(&urls), false, quiet())).unwrap();
        let listed = block_on(models.list()).unwrap();
        assert_eq!((listed.len(), listed[0].complete, listed[0].size), (1, true, len), "{listed:?}");
        assert_eq!(listed[0].model, "b-00001-of-00002.gguf");
    }
    let error = opened(&models, &files(&[one.clone(), one.clone()])).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    assert_eq!(block_on(models.remove(&files(&[two, one]))).unwrap(), len);
}

#[test]
fn files_of_one_name_at_several_addresses() {
    let file = json!({ "size": 100_000, "seed": 9 });
    let repo = json!({ "commit": COMMIT, "files": { "m.gguf": file } });
    let world = World::new("addresses", json!({ "repos": { "a/b": repo, "a/c": repo } }));
    let models = Models::new(client(&world, None), Rc::new(MemoryStore::default()));
    let [one, two]: [Spec; 2] =
        ["a/b", "a/c"].map(|repo| address(&world, "m.gguf").replace("a/b", repo).parse().unwrap());
    for spec in [&one, &two] {
        block_on(models.pull(spec, false, quiet())).unwrap();
    }
    let listed = block_on(models.list()).unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|model| model.model == "m.gguf" && model.complete && model.size == 100_000));
    assert_ne!(listed[0].commit, listed[1].commit);
    let error = block_on(models.remove(&"m.gguf".parse().unwrap())).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(listed.iter().all(|model| error.message.contains(&format!("m.gguf@{}", &model.commit[..12]))));
    let [of_one] = &block_on(models.cached(&one)).unwrap()[..] else { panic!() };
    assert_eq!(
        block_on(models.remove(&format!("m.gguf@{}", of_one.commit).parse().unwrap())).unwrap(),
        100_000
    );
    assert_eq!(block_on(models.cached(&one)).unwrap_err().code, Code::ModelNotFound);
    assert_eq!(block_on(models.remove(&"m.gguf".parse().unwrap())).unwrap(), 100_000);
    assert_eq!(block_on(models.cached(&two)).unwrap_err().code, Code::ModelNotFound);
}

/// Whatever happens on the way, there is one total, and nothing goes back.
#[test]
fn one_account_of_a_load() {
    let (_, len) = joined();
    let store: Rc<dyn Store> = Rc::new(MemoryStore::default());
    for (index, fault) in ["none", "flip", "ignored", "cut"].into_iter().enumerate() {
        let file = |index| json!({ "file": path("models").join(part(index)) });
        let repo = json!({ "commit": COMMIT, "files": { part(1): file(1), part(2): file(2) } });
        let script =
            json!([{ "match": "cdn/", "times": if fault == "none" { 0 } else { 2 }, "fault": fault }]);
        let world = World::new(
            &format!("account-{fault}"),
            json!({ "repos": { "a/b": repo }, "script": script, "seed": fault }),
        );
        let models = Models::new(client(&world, None), store.clone()).with_sizes(SIZES);
        let spec: Spec = "a/b".parse().unwrap();
        let reports = Rc::new(RefCell::new(Vec::new()));
        let heard = reports.clone();
        let report: Report = Rc::new(move |progress: Progress| {
            heard.borrow_mut().push(progress);
            Ok(())
        });
        let heard = report.clone();
        // From the second on, while a whole copy is there.
        let model = Rc::new(block_on(models.open(&spec, index > 0, report)).unwrap());
        let options = Options { device: Device::Cpu, ..Options::default() };
        block_on(load_model(model, &options, &mut |progress| heard(progress))).unwrap();
        let reports = reports.borrow();
        let told: Vec<(u64, u64)> = reports.iter().map(|report| (report.loaded, report.total)).collect();
        assert!(told.is_sorted() && told.iter().all(|(_, total)| *total == len), "{fault}: {told:?}");
        assert!(reports.iter().all(|report| report.progress == report.loaded as f64 / len as f64));
        assert_eq!(told.last(), Some(&(len, len)), "{fault}");
    }
}
