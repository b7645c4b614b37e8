//! Which device the engine takes, why, and what it says when that cannot be.

use crate::fixtures::{contents, stories};
use candlewick::backend::Backend;
use candlewick::backend::gpu::{Gpu, Options as GpuOptions};
use candlewick::engine::{Device, Engine, Event, Options, Prompt, Settings};
use candlewick::format::gguf::Header;
use candlewick::model::{Config, Decoder};
use candlewick::sampling::Sampling;
use candlewick::store::MemorySource;
use candlewick::{Code, Error};
use pollster::block_on;
use std::rc::Rc;

fn load(device: Device) -> Engine {
    let source = MemorySource::new("story.gguf", contents(&stories()));
    let options = Options { device, ..Options::default() };
    block_on(Engine::load(Rc::new(source), &options, &mut |_| Ok(()))).unwrap()
}

#[test]
fn auto_leaves_a_software_renderer_alone() {
    let engine = load(Device::Auto);
    assert_eq!(engine.info().device, "cpu");
    assert_eq!(engine.info().gpu, None);
    let reason = &engine.info().device_reason;
    assert!(reason.starts_with("the only GPU adapter is a software renderer ("), "{reason}");
}

#[test]
fn info_names_the_gpu() {
    let engine = load(Device::Gpu);
    let info = engine.info();
    assert_eq!((info.device, info.device_reason.as_str()), ("gpu", "asked for"));
    let gpu = info.gpu.as_ref().unwrap();
    assert!(!gpu.adapter.is_empty());
    assert_eq!(gpu.backend, "vulkan");
    assert_eq!(gpu.features.contains(&"subgroups"), gpu.variants.contains(&"subgroups"));
}

fn decoder(options: GpuOptions, context: usize) -> Result<Decoder, Error> {
    let source = MemorySource::new("story.gguf", contents(&stories()));
    block_on(async {
        let header = Header::read(&source).await.unwrap();
        let config = Config::from_header(&header).unwrap();
        let gpu: Box<dyn Backend> = Box::new(Gpu::open(options).await.unwrap());
        let mut loaded = |bytes| panic!("{bytes} bytes were read before the limits were looked at");
        Decoder::load(&source, &header, config, gpu, context, &mut loaded).await
    })
}

#[test]
fn a_model_over_the_limits_is_refused_before_it_is_read() {
    // Each layer's keys take 64 bytes a token.
    let options = GpuOptions { max_binding: Some(2 << 20), ..GpuOptions::from_env() };
    let error = decoder(options, 65_536).err().unwrap();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("4194304 bytes") && error.message.contains("2097152"), "{error}");
}

/// Answers that are dropped at every token leave the KV cache as the CPU has it.
#[test]
fn dropped_answers_leave_the_cache_in_order() {
    let [gpu, cpu] = [Device::Gpu, Device::Cpu].map(load);
    let settings = |max_tokens, temperature| Settings {
        sampling: Sampling { temperature, seed: Some(1), ..Sampling::default() },
        max_tokens,
        ..Settings::default()
    };
    let mut prompt = vec![1];
    for round in 0..12 {
        let mut seen = Vec::new();
        for engine in [&gpu, &cpu] {
            block_on(async {
                let start = Prompt::Tokens(prompt.clone());
                let mut answer = engine.generate(start, settings(40, 0.0)).await.unwrap();
                let mut tokens = Vec::new();
                while let Some(event) = answer.next().await.unwrap() {
                    if let Event::Token { token, .. } = event {
                        tokens.push(token);
                    }
                    if tokens.len() == round % 5 + 1 {
                        break;
                    }
                }
                seen.push((answer.usage(), tokens));
            });
        }
        assert_eq!(seen[0], seen[1], "round {round}");
        prompt.extend(&seen[0].1);
        // Another prompt in between, read to its end.
        if round % 4 == 3 {
            let ends: Vec<_> = [&gpu, &cpu]
                .map(|engine| {
                    block_on(async {
                        let start = Prompt::Tokens(prompt[..prompt.len() / 2].to_vec());
                        let mut answer = engine.generate(start, settings(9, 0.9)).await.unwrap();
                        while answer.next().await.unwrap().is_some() {}
                        answer.usage()
                    })
                })
                .into();
            assert_eq!(ends[0], ends[1]);
        }
    }
}
