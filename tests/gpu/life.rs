//! The GPU's life: tested at first use, chosen or not, lost and brought back, given up.

use crate::fixtures::{contents, files, json, path, stories};
use candlewick::Code;
use candlewick::Result;
use candlewick::backend::gpu::{Corruption, Gpu, Options as GpuOptions, SelfTest, Variant};
use candlewick::backend::{Step, Token};
use candlewick::engine::{Device, Engine, Event, Generation, Options, Progress, Prompt, Settings, Stage};
use candlewick::format::gguf::Header;
use candlewick::model::{Config, Decoder};
use candlewick::sampling::Sampling;
use candlewick::store::MemorySource;
use pollster::block_on;
use std::collections::BTreeMap;
use std::rc::Rc;
use tempfile::TempDir;

fn corrupt(kernel: &str, text: &str, by: &str) -> Corruption {
    Corruption { kernel: kernel.into(), text: text.into(), by: by.into() }
}

/// Options for the GPU with a cache of their own.
/// By the answer.
type Texts = BTreeMap<usize, String>;

struct Setup {
    folder: TempDir,
    options: Options,
}

fn setup(device: Device) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(folder.path().to_str().unwrap().to_owned());
    let gpu = GpuOptions { cache, software: true, faster: Some(true), ..GpuOptions::default() };
    Setup { folder, options: Options { device, gpu, ..Options::default() } }
}

fn load_reporting(bytes: Vec<u8>, options: &Options) -> Result<(Engine, Vec<Progress>)> {
    let mut reports = Vec::new();
    let source = Rc::new(MemorySource::new("story.gguf", bytes));
    let engine = block_on(Engine::load(source, options, &mut |report| {
        reports.push(report);
        Ok(())
    }))?;
    Ok((engine, reports))
}

fn load(options: &Options) -> Result<Engine> {
    Ok(load_reporting(contents(&stories()), options)?.0)
}

fn self_test(engine: &Engine) -> SelfTest {
    let info = engine.info();
    info.gpu.as_ref().unwrap().self_test.clone().unwrap()
}

fn greedy(max_tokens: usize) -> Settings {
    Settings {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        ..Settings::default()
    }
}

fn start(engine: &Engine, settings: Settings) -> Generation {
    block_on(engine.generate(Prompt::Text("Once upon a time".into()), settings)).unwrap()
}

/// The rest of an answer: its text, and the reports of recoveries.
/// The text of each answer from here on.
fn finish(generation: &mut Generation) -> Result<(Texts, Vec<Progress>)> {
    let (mut texts, mut reports) = (Texts::new(), Vec::new());
    while let Some(event) = block_on(generation.next())? {
        match event {
            Event::Token { choice, text, .. } | Event::Finish { choice, text, .. } => {
                *texts.entry(choice).or_default() += &text;
            }
            Event::Recovery(report) => reports.push(report),
            Event::Prompt { .. } => {}
        }
    }
    Ok((texts, reports))
}

fn answer(engine: &Engine, settings: Settings) -> Texts {
    finish(&mut start(engine, settings)).unwrap().0
}

/// Every operation that some model has is compared with the CPU's before that model runs.
#[test]
fn self_test_passes_for_every_kind_of_layer() {
    let Setup { options, .. } = setup(Device::Gpu);
    for model in ["gemma3", "lfm2moe", "qwen35moe", "granitehybrid", "nemotron_h", "quant-iq4_xs"] {
        let bytes = contents(&path(&format!("models/{model}.gguf")));
        let test = self_test(&load_reporting(bytes, &options).unwrap().0);
        assert!(test.off.is_empty() && test.failure.is_none(), "{model}: {test:?}");
    }
}

#[test]
fn self_test_passes_and_is_remembered() {
    let Setup { options, folder } = setup(Device::Gpu);
    let test = self_test(&load(&options).unwrap());
    assert!(!test.cached && test.off.is_empty() && test.failure.is_none(), "{test:?}");
    let again = self_test(&load(&options).unwrap());
    assert!(again.cached && again.off.is_empty(), "{again:?}");
    // A file that says something else is tested again; a folder that is none breaks nothing.
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::write(file.unwrap().path(), "nonsense").unwrap();
    }
    assert!(!self_test(&load(&options).unwrap()).cached);
    let nowhere = GpuOptions { cache: Some("/dev/null/nowhere".into()), ..options.gpu.clone() };
    assert!(!self_test(&load(&Options { gpu: nowhere, ..options }).unwrap()).cached);
}

/// Wrong shaders are found, and the story is right without them.
#[test]
fn self_test_finds_the_wrong_variant() {
    let (story, cases) = (
        answer(&load(&setup(Device::Cpu).options).unwrap(), greedy(60)),
        [
            (Variant::Subgroups, corrupt("SUBGROUPS", "subgroupAdd(", "1.1 * subgroupAdd(")),
            // One that does not even compile.
            (Variant::Subgroups, corrupt("SUBGROUPS", "subgroupAdd(", "subgroupSubtract(")),
            (Variant::F16, corrupt("KV_F16", "unpack2x16float(", "0.9 * unpack2x16float(")),
            // Halves whose exponent is 0 read as 0.
            (Variant::Half, corrupt("matvec", "return unpack2x16float(word);", FLUSHED)),
        ],
    );
    for (variant, corruption) in cases {
        let Setup { mut options, folder: _folder } = setup(Device::Gpu);
        options.gpu.corruptions.push(corruption);
        let bytes = match variant {
            Variant::Half => contents(&path("models/quant-q4_0.gguf")),
            _ => contents(&stories()),
        };
        for cached in [false, true] {
            let (engine, _) = load_reporting(bytes.clone(), &options).unwrap();
            let test = self_test(&engine);
            let off: Vec<Variant> = test.off.iter().map(|off| off.variant).collect();
            assert_eq!((test.cached, off), (cached, vec![variant]), "{test:?}");
            assert!(!test.off[0].reason.is_empty());
            if variant != Variant::Half {
                assert_eq!(answer(&engine, greedy(60)), story);
            }
        }
    }
}

const FLUSHED: &str = "let exponents = vec2<u32>(word, word >> 16u) & vec2<u32>(0x7c00u);
    return select(unpack2x16float(word), vec2<f32>(0.0), exponents == vec2<u32>(0u));";

/// Two wrong variants at once, in different kernels.
#[test]
fn self_test_finds_every_wrong_variant() {
    let Setup { mut options, folder: _folder } = setup(Device::Gpu);
    options.gpu.corruptions = vec![
        corrupt("SUBGROUPS", "subgroupAdd(", "1.1 * subgroupAdd("),
        corrupt("KV_F16", "unpack2x16float(", "0.9 * unpack2x16float("),
    ];
    let test = self_test(&load(&options).unwrap());
    let off: Vec<Variant> = test.off.iter().map(|off| off.variant).collect();
    assert_eq!(off, [Variant::Subgroups, Variant::F16]);
}

#[test]
fn a_gpu_that_is_wrong_is_not_used() {
    for device in [Device::Auto, Device::Gpu] {
        let Setup { mut options, folder: _folder } = setup(device);
        options.gpu.corruptions.push(corrupt("attend", "exp(", "1.1 * exp(-"));
        for _ in 0..2 {
            match load(&options) {
                Ok(engine) => {
                    assert_eq!((device, engine.info().device), (Device::Auto, "cpu"));
                    assert!(engine.info().device_reason.contains("failed the self-test: attention"));
                }
                Err(error) => {
                    assert_eq!((device, error.code), (Device::Gpu, Code::ResourceExhausted));
                    assert!(error.message.contains("failed the self-test: attention"), "{error}");
                }
            }
        }
    }
}

#[test]
fn variants_can_be_switched_off() {
    let Setup { mut options, folder: _folder } = setup(Device::Gpu);
    options.gpu.disable = ["subgroups", "f16", "half"].map(str::to_owned).into();
    let engine = load(&options).unwrap();
    let info = engine.info();
    assert_eq!(info.gpu.as_ref().unwrap().variants, ["shared memory", "kv f32", "exact half"]);
    options.gpu.disable = vec!["wings".into()];
    let error = load(&options).err().unwrap();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("wings"));
}

#[test]
fn compiling_is_a_stage_of_its_own() {
    let Setup { options, folder: _folder } = setup(Device::Gpu);
    for _ in 0..2 {
        let (_, reports) = load_reporting(contents(&stories()), &options).unwrap();
        let mut stages: Vec<Stage> = reports.iter().map(|report| report.stage).collect();
        stages.dedup();
        assert_eq!(stages, [Stage::Load, Stage::Compile, Stage::Load, Stage::Ready]);
        let last = reports.iter().rfind(|report| report.stage == Stage::Compile).unwrap();
        let kernels = last.kernels.unwrap();
        assert!(kernels.total > 5 && kernels.compiled == kernels.total, "{last:?}");
        let bytes: Vec<_> = reports.iter().map(|report| (report.loaded, report.total)).collect();
        assert!(bytes.is_sorted() && bytes.iter().all(|(_, total)| *total == bytes[0].1), "{bytes:?}");
    }
}

/// Prompts and answers find all their kernels compiled.
#[test]
fn nothing_is_compiled_after_loading() {
    let Setup { options, folder: _folder } = setup(Device::Gpu);
    for file in files().into_iter().filter(|(name, _)| !crate::short() || name.contains("gemma3")) {
        let source = MemorySource::new(file.0.clone(), file.1);
        let decoder = block_on(async {
            let header = Header::read(&source).await?;
            let config = Config::from_header(&header)?;
            let program = Decoder::program(&source, &header, &config, 256, 1).await?;
            let gpu = Gpu::open(options.gpu.clone()).await?.tested(&program, &mut |_, _| Ok(())).await?;
            Decoder::load(&source, &header, config, Box::new(gpu), 256, &mut |_| Ok(())).await
        });
        let Ok(mut decoder) = decoder else { continue };
        let pipelines = |decoder: &Decoder| decoder.backend().gpu().unwrap().pipelines;
        let made = pipelines(&decoder);
        assert!(made > 5, "{}: {made}", file.0);
        let tokens: Vec<u32> = (0..150).map(|index| 3 + index * 7 % 200).collect();
        let mut logits = Vec::new();
        block_on(async {
            let prompt = |len: usize, position| Step::single(tokens[..len].iter().copied(), position, 1);
            for step in [prompt(1, 0), prompt(40, 0), prompt(150, 40)] {
                decoder.run(&step).unwrap();
            }
            decoder.choose(usize::MAX).unwrap();
            decoder.run(&Step { tokens: vec![Token::Chosen(0)], ..prompt(1, 190) }).unwrap();
            decoder.scores(0, &mut logits).await.unwrap();
        });
        assert_eq!(pipelines(&decoder), made, "{}", file.0);
    }
}

#[test]
fn auto_goes_where_the_model_is_faster() {
    for faster in [true, false] {
        let Setup { mut options, folder: _folder } = setup(Device::Auto);
        options.gpu.faster = Some(faster);
        let engine = load(&options).unwrap();
        let info = engine.info();
        assert_eq!(info.device, if faster { "gpu" } else { "cpu" });
        assert!(info.device_reason.contains("ms a token on the GPU"), "{}", info.device_reason);
    }
}

/// What fails on the GPU goes to the CPU where the device is "auto" or the option says so.
#[test]
fn a_gpu_that_fails_while_loading() {
    type Change = fn(&mut GpuOptions);
    let whole: Vec<(&str, Change)> = vec![
        ("out of memory", |gpu| gpu.max_memory = Some(8 << 20)),
        ("in one piece", |gpu| gpu.max_binding = Some(1 << 10)),
    ];
    for (expected, change) in whole {
        for (device, fallback) in [(Device::Auto, None), (Device::Gpu, Some(true)), (Device::Gpu, None)] {
            let Setup { mut options, folder: _folder } = setup(device);
            change(&mut options.gpu);
            options.fallback = fallback;
            match load_reporting(contents(&stories()), &options) {
                Ok((engine, reports)) => {
                    assert_eq!(engine.info().device, "cpu");
                    assert!(
                        engine.info().device_reason.contains(expected),
                        "{}",
                        engine.info().device_reason
                    );
                    assert!(device == Device::Auto || fallback == Some(true));
                    // Where progress goes back, it says why.
                    for pair in reports.windows(2).filter(|pair| pair[0].stage == pair[1].stage) {
                        let restarted = pair[1].restarted != pair[0].restarted && pair[1].restarted.is_some();
                        assert!(pair[1].progress >= pair[0].progress || restarted, "{pair:?}");
                    }
                }
                Err(error) => {
                    assert!(device == Device::Gpu && fallback.is_none());
                    assert!(error.message.contains(expected) && error.message.contains("\"cpu\""), "{error}");
                }
            }
        }
    }
}

/// A device that goes away at any moment of an answer: the text is what it would have been.
#[test]
fn an_answer_goes_on_after_a_loss() {
    let Setup { options, folder: _folder } = setup(Device::Gpu);
    let engine = load(&options).unwrap();
    let sampled = Settings {
        sampling: Sampling {
            temperature: 0.9,
            seed: Some(5),
            repeat_penalty: 1.2,
            repeat_last_n: 32,
            ..Sampling::default()
        },
        stop: vec!["The end.".into()],
        ..greedy(60)
    };
    let two = Settings { choices: 2, max_tokens: 12, ..sampled.clone() };
    let mut recoveries = 0;
    for settings in [greedy(60), sampled, two] {
        let whole = answer(&engine, settings.clone());
        for after in [0, 1, 2, 7, 20].into_iter().filter(|after| *after < settings.max_tokens) {
            let mut generation = start(&engine, settings.clone());
            let mut texts = Texts::new();
            for _ in 0..after {
                if let Some(Event::Token { choice, text, .. } | Event::Finish { choice, text, .. }) =
                    block_on(generation.next()).unwrap()
                {
                    *texts.entry(choice).or_default() += &text;
                }
            }
            options.gpu.hold.destroy();
            let (rest, reports) = finish(&mut generation).unwrap();
            rest.into_iter().for_each(|(choice, text)| *texts.entry(choice).or_default() += &text);
            assert_eq!(texts, whole, "after {after} events");
            recoveries += 1;
            assert!(!reports.is_empty());
            let lost = |report: &Progress| report.restarted.as_ref().is_some_and(|why| why.contains("lost"));
            assert!(reports.iter().all(lost), "{reports:?}");
            assert_eq!(engine.info().recoveries, recoveries);
            assert_eq!(engine.info().device, "gpu");
        }
    }
}

#[test]
fn scores_go_on_after_a_loss() {
    let Setup { options, folder: _folder } = setup(Device::Gpu);
    let engine = load(&options).unwrap();
    let golden = json("goldens/stories260K.golden.json");
    let tokens: Vec<u32> = serde_json::from_value(golden["greedy_ids"].clone()).unwrap();
    let mut all = [Vec::new(), Vec::new()];
    for (round, rows) in all.iter_mut().enumerate() {
        block_on(engine.logits(&tokens[..40], &mut |position, _| {
            rows.push(position);
            if round == 1 && position == 11 {
                options.gpu.hold.destroy();
            }
        }))
        .unwrap();
    }
    assert_eq!(all[0], (0..40).collect::<Vec<_>>());
    assert_eq!(all[1], all[0]);
    assert_eq!(engine.info().recoveries, 1);
}

/// Between requests nobody notices.
#[test]
fn a_device_lost_while_idle_comes_back() {
    let Setup { options, folder: _folder } = setup(Device::Auto);
    let engine = load(&options).unwrap();
    let whole = answer(&engine, greedy(30));
    options.gpu.hold.destroy();
    assert_eq!(answer(&engine, greedy(30)), whole);
    let info = engine.info();
    assert_eq!((info.device, info.recoveries), ("gpu", 1));
    assert!(info.device_reason.contains("was lost and came back"), "{}", info.device_reason);
}

/// An answer that is dropped while the model comes back leaves the engine ready.
/// What is pinned is computed again, without anybody asking for it.
#[test]
fn what_is_pinned_comes_back() {
    let options = setup(Device::Gpu).options;
    let engine = load(&options).unwrap();
    let prompt = Prompt::Tokens((3..103).collect());
    assert_eq!(block_on(engine.pin("beginning", prompt, &mut |_| ())).unwrap(), 100);
    let story = answer(&engine, greedy(20));
    options.gpu.hold.destroy();
    let mut other = start(&engine, greedy(20));
    let (again, reports) = finish(&mut other).unwrap();
    assert_eq!(again, story);
    assert!(!reports.is_empty());
    assert_eq!(block_on(engine.pinned()).unwrap(), [("beginning".to_owned(), 100)]);
    let mut next = block_on(engine.generate(Prompt::Tokens((3..110).collect()), greedy(2))).unwrap();
    finish(&mut next).unwrap();
    assert_eq!(next.usage().prompt_tokens_details.cached_tokens, 100);
}

#[test]
fn a_recovery_can_be_given_up() {
    let Setup { options, folder: _folder } = setup(Device::Gpu);
    let engine = load(&options).unwrap();
    let whole = answer(&engine, greedy(30));
    for steps in 0..3 {
        let mut generation = start(&engine, greedy(30));
        while !matches!(block_on(generation.next()).unwrap(), Some(Event::Token { .. })) {}
        options.gpu.hold.destroy();
        for _ in 0..steps {
            block_on(generation.next()).unwrap();
        }
        drop(generation);
        assert_eq!(answer(&engine, greedy(30)), whole);
    }
}

/// A device that is lost again and again is given up.
#[test]
fn repeated_losses_end() {
    for (device, fallback) in [(Device::Auto, None), (Device::Gpu, None), (Device::Gpu, Some(true))] {
        let Setup { mut options, folder: _folder } = setup(device);
        options.fallback = fallback;
        let engine = load(&options).unwrap();
        let whole = answer(&engine, greedy(40));
        let mut generation = start(&engine, greedy(40));
        let mut texts = Texts::new();
        let end = loop {
            match block_on(generation.next()) {
                Ok(Some(Event::Token { choice, text, .. })) => {
                    *texts.entry(choice).or_default() += &text;
                    options.gpu.hold.destroy();
                }
                Ok(Some(Event::Finish { choice, text, .. })) => *texts.entry(choice).or_default() += &text,
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        drop(generation);
        match end {
            None => {
                assert!(device == Device::Auto || fallback == Some(true));
                assert_eq!(texts, whole);
                assert_eq!((engine.info().device, engine.info().recoveries), ("cpu", 4));
                assert!(engine.info().device_reason.contains("lost"), "{}", engine.info().device_reason);
                options.device = Device::Cpu;
                assert_eq!(engine.info().memory, load(&options).unwrap().info().memory);
                assert_eq!(answer(&engine, greedy(40)), whole);
            }
            Some(error) => {
                assert!(device == Device::Gpu && fallback.is_none());
                assert_eq!(error.code, Code::DeviceLost, "{error}");
                assert!(error.message.contains("4 times"), "{error}");
                // The next request tries again.
                assert_eq!(answer(&engine, greedy(40)), whole);
            }
        }
    }
}

#[test]
fn a_destroyed_device_says_that_it_is_lost() {
    let hold = GpuOptions::default();
    let mut gpu = block_on(Gpu::open(hold)).unwrap();
    gpu.destroy();
    let error = block_on(candlewick::backend::Backend::wait(&mut gpu)).err().unwrap();
    assert_eq!(error.code, Code::DeviceLost, "{error}");
}

#[test]
fn a_name_that_no_gpu_has() {
    let Setup { mut options, folder: _folder } = setup(Device::Gpu);
    options.gpu.adapter = Some("no such".into());
    let error = load(&options).err().unwrap();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("no such"), "{error}");
    options.device = Device::Auto;
    let info = load(&options).unwrap().info();
    assert_eq!(info.device, "cpu");
    assert!(info.device_reason.contains("no such"), "{}", info.device_reason);
}
