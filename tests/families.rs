//! Families by other names, and sizes that differ from layer to layer.

use crate::edit::{Edit, Tensor};
use crate::fixtures::{all_logits, contents, json, path, tokens};
use candlewick::backend::cpu::Cpu;
use candlewick::engine::{Document, EmbeddingSettings, Engine, Options};
use candlewick::format::gguf::Header;
use candlewick::model::{Config, Decoder};
use candlewick::store::MemorySource;
use candlewick::{Code, Result};
use pollster::block_on;
use std::rc::Rc;

fn model(name: &str) -> Edit {
    Edit::new(&contents(&path("models").join(format!("{name}.gguf"))))
}

fn load(edit: &Edit, context: usize) -> Result<Decoder> {
    let source = MemorySource::new("edited.gguf", edit.bytes());
    block_on(async {
        let header = Header::read(&source).await?;
        let config = Config::from_header(&header)?;
        Decoder::load(&source, &header, config, Box::new(Cpu::new()), context, &mut |_| Ok(())).await
    })
}

fn logits(edit: &Edit, ids: &[u32]) -> Vec<Vec<f32>> {
    all_logits(&mut load(edit, 64).unwrap(), ids, 7)
}

fn renamed(mut edit: Edit, from: &str, to: &str) -> Edit {
    for (key, _) in &mut edit.entries {
        if let Some(rest) = key.strip_prefix(from).filter(|rest| rest.starts_with('.')) {
            *key = format!("{to}{rest}");
        }
    }
    edit.str("general.architecture", to)
}

/// They compute what another family does, and have keys of their own name.
#[test]
fn families_by_other_names() {
    for (name, other) in [
        ("llama", "internlm2"),
        ("llama", "mistral3"),
        ("qwen2", "qwen2vl"),
        ("qwen3", "qwen3vl"),
        ("granite", "minicpm"),
    ] {
        let ids = tokens(&json(&format!("goldens/{name}.json")));
        let original = model(name);
        let expected = logits(&original, &ids);
        assert!(logits(&renamed(original, name, other), &ids) == expected, "{other}");
    }
}

/// What MiniCPM's files leave out.
#[test]
fn minicpm_scales_by_itself() {
    let ids = tokens(&json("goldens/granite.json"));
    let (layers, width) = (2.0_f32, 32.0_f32);
    let original = ["embedding_scale", "residual_scale", "logit_scale"]
        .iter()
        .fold(renamed(model("granite"), "granite", "minicpm"), |edit, key| {
            edit.remove(&format!("minicpm.{key}"))
        });
    let f32 = |edit: Edit, key: &str, value: f32| edit.set(key, 6, &value.to_le_bytes());
    let said = f32(original.clone(), "minicpm.embedding_scale", 12.0);
    let said = f32(said, "minicpm.residual_scale", 1.4 / layers.sqrt());
    let said = f32(said, "minicpm.logit_scale", width / 256.0);
    assert!(logits(&original, &ids) == logits(&said, &ids));
    assert!(logits(&original, &ids) != logits(&renamed(model("granite"), "granite", "minicpm"), &ids));
}

/// Sets some of a matrix's numbers in F32 to zero: those at `(row, column)`.
fn zero(tensor: &mut Tensor, zeros: impl Fn(usize, usize) -> bool) {
    let columns = tensor.dimensions[0] as usize;
    for (index, number) in tensor.data.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        if zeros(index / columns, index % columns) {
            *number = [0; 4];
        }
    }
}

/// Keeps the first rows or columns only.
fn cut(tensor: &mut Tensor, rows: usize, columns: usize) {
    let width = tensor.dimensions[0] as usize;
    let numbers = tensor.data.as_chunks::<4>().0;
    tensor.data =
        numbers.chunks(width).take(rows).flat_map(|row| row[..columns].as_flattened().to_vec()).collect();
    tensor.dimensions = vec![columns as u64, rows as u64];
}

/// A second layer that is narrower computes what it would with zeros in the place of what it lacks.
#[test]
fn layers_of_different_sizes() {
    let ids = tokens(&json("goldens/llama.json"));
    // 4 query heads and 2 key heads of 16; 96 wide.
    let original = model("llama");
    let zeros = original
        .clone()
        .tensor("blk.1.ffn_down.weight", |tensor| zero(tensor, |_, column| column >= 64))
        .tensor("blk.1.attn_output.weight", |tensor| zero(tensor, |_, column| column >= 32));
    let narrow = original
        .clone()
        .tensor("blk.1.ffn_gate.weight", |tensor| cut(tensor, 64, 64))
        .tensor("blk.1.ffn_up.weight", |tensor| cut(tensor, 64, 64))
        .tensor("blk.1.ffn_down.weight", |tensor| cut(tensor, 64, 64))
        .tensor("blk.1.attn_q.weight", |tensor| cut(tensor, 32, 64))
        .tensor("blk.1.attn_k.weight", |tensor| cut(tensor, 16, 64))
        .tensor("blk.1.attn_v.weight", |tensor| cut(tensor, 16, 64))
        .tensor("blk.1.attn_output.weight", |tensor| cut(tensor, 64, 32))
        .i32s("llama.feed_forward_length", &[96, 64])
        .i32s("llama.attention.head_count", &[4, 2])
        .i32s("llama.attention.head_count_kv", &[2, 1]);
    let (expected, found) = (logits(&zeros, &ids), logits(&narrow, &ids));
    for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
        assert!((expected - found).abs() < 1e-4, "{expected} {found}");
    }
    for (key, values) in [
        ("llama.feed_forward_length", &[96, 0][..]),
        ("llama.feed_forward_length", &[96]),
        ("llama.attention.head_count_kv", &[2, 3]),
        ("llama.attention.head_count", &[-4, 4]),
    ] {
        let code = load(&narrow.clone().i32s(key, values), 64).map(|_| ()).unwrap_err().code;
        assert_eq!(code, Code::CorruptModel, "{key} {values:?}");
    }
}

/// What nobody reads would be left out of the computation.
#[test]
fn tensors_that_no_family_knows() {
    let tensor = |name: &str| Tensor {
        name: name.to_owned(),
        dimensions: vec![64],
        kind: crate::edit::F32,
        offset: None,
        data: vec![0; 256],
    };
    let with = |name: &str| {
        let mut edit = model("llama");
        edit.tensors.push(tensor(name));
        load(&edit, 64).map(|_| ())
    };
    let error = with("blk.1.attn_sub_norm.weight").unwrap_err();
    assert_eq!(error.code, Code::UnsupportedModel);
    assert!(error.message.contains("blk.1.attn_sub_norm.weight"), "{error}");
    with("blk.1.attn_rot_embd.weight").unwrap();
    // A layer that predicts a further token comes last.
    with("blk.2.nextn.enorm.weight").unwrap();
    let further = |count| model("llama").u32("llama.nextn_predict_layers", count);
    assert!(load(&further(1), 64).is_ok());
    assert_eq!(load(&further(2), 64).map(|_| ()).unwrap_err().code, Code::CorruptModel);
}

/// What is another family by a name that nobody knows yet.
#[test]
fn an_unknown_name_of_a_known_family() {
    let error = |edit: Edit| {
        let source = Rc::new(MemorySource::new("new.gguf", edit.bytes()));
        let loaded = block_on(Engine::load(source, &Options::default(), &mut |_| Ok(())));
        let error = loaded.map(|_| ()).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedModel);
        error.message
    };
    let of = |name: &str| renamed(model(name), name, "novelty");
    assert!(error(of("llama")).contains("those of llama"), "{}", error(of("llama")));
    assert!(error(of("qwen3")).contains("those of qwen3"), "{}", error(of("qwen3")));
    assert!(error(of("gemma2")).contains("those of glm4") || error(of("gemma2")).contains("those of gemma2"));
    // One that has something of its own is nobody's.
    let own =
        of("llama").tensor("blk.1.attn_norm.weight", |tensor| tensor.name = "blk.1.novel.weight".into());
    assert!(!error(own).contains("those of"));
}

/// An encoder's layers share what they keep only where they are alike.
#[test]
fn an_encoder_with_layers_of_different_heads() {
    let vector = |edit: &Edit| {
        let source = Rc::new(MemorySource::new("encoder.gguf", edit.bytes()));
        let engine = block_on(Engine::load(source, &Options::default(), &mut |_| Ok(()))).unwrap();
        let text = Document::Text("a text of a few words".to_owned());
        block_on(engine.embed(&text, EmbeddingSettings::default())).unwrap().vector
    };
    let original = model("bert-f32");
    let zeros =
        original.clone().tensor("blk.1.attn_output.weight", |tensor| zero(tensor, |_, column| column >= 32));
    let keep = |edit: Edit, part: &str| {
        edit.tensor(&format!("blk.1.attn_{part}.weight"), |tensor| cut(tensor, 32, 64)).tensor(
            &format!("blk.1.attn_{part}.bias"),
            |tensor| {
                tensor.data.truncate(4 * 32);
                tensor.dimensions = vec![32];
            },
        )
    };
    let heads = 64
        / block_on(async {
            let source = MemorySource::new("encoder.gguf", original.bytes());
            let header = Header::read(&source).await.unwrap();
            Config::from_header(&header).unwrap().layers[0].heads.size as i32
        });
    let narrow = ["q", "k", "v"]
        .iter()
        .fold(original.clone(), |edit, part| keep(edit, part))
        .tensor("blk.1.attn_output.weight", |tensor| cut(tensor, 64, 32))
        .i32s("bert.attention.head_count", &[heads, heads / 2]);
    for (expected, found) in vector(&zeros).iter().zip(vector(&narrow)) {
        assert!((expected - found).abs() < 1e-5, "{expected} {found}");
    }
}

/// Scales that would be lost.
#[test]
fn a_residual_scale_where_norms_do_not_take_it_out() {
    for name in ["gpt2", "gemma2", "olmo2"] {
        let edit = model(name).set(&format!("{name}.residual_scale"), 6, &0.5f32.to_le_bytes());
        assert_eq!(load(&edit, 64).map(|_| ()).unwrap_err().code, Code::UnsupportedModel, "{name}");
    }
}

/// Files of recurrent layers and experts that do not fit together.
#[test]
fn broken_recurrence_and_experts() {
    let refused = |edit: &Edit, code: Code, what: &str| {
        let error = load(edit, 64).map(|_| ()).unwrap_err();
        assert_eq!(error.code, code, "{what}: {}", error.message);
    };
    let corrupt = |edit: Edit, what: &str| refused(&edit, Code::CorruptModel, what);
    let (lfm2, qwen35, mamba2) = (model("lfm2"), model("qwen35"), model("mamba2"));
    for taps in [0, 1, 4, 17, u32::MAX] {
        corrupt(lfm2.clone().u32("lfm2.shortconv.l_cache", taps), &format!("{taps} taps"));
    }
    corrupt(lfm2.clone().remove("lfm2.shortconv.l_cache"), "no taps");
    corrupt(lfm2.clone().i32s("lfm2.attention.head_count_kv", &[0, 0, 2]), "too few layers");
    corrupt(
        lfm2.clone().i32s("lfm2.attention.head_count_kv", &[0, 0, 0, 0]),
        "nobody attends where it should",
    );
    corrupt(lfm2.without_tensor("blk.0.shortconv.conv.weight"), "no kernel");
    for (key, value) in [
        ("ssm.state_size", 0),
        ("ssm.state_size", 17),
        ("ssm.state_size", 1 << 20),
        ("ssm.group_count", 3),
        ("ssm.group_count", 0),
        ("ssm.time_step_rank", 5),
        ("ssm.inner_size", 63),
        ("ssm.conv_kernel", 1),
    ] {
        corrupt(qwen35.clone().u32(&format!("qwen35.{key}"), value), &format!("{key} {value}"));
    }
    corrupt(qwen35.clone().without_tensor("blk.1.ssm_a"), "no rates");
    let all_attend =
        qwen35.remove("qwen35.attention.recurrent_layers").u32("qwen35.full_attention_interval", 1);
    corrupt(all_attend, "layers that attend have no heads' matrices");
    for (key, value) in [
        ("ssm.time_step_rank", 0),
        ("ssm.time_step_rank", 7),
        ("ssm.group_count", 3),
        ("ssm.state_size", u32::MAX),
        ("ssm.inner_size", 0),
    ] {
        corrupt(mamba2.clone().u32(&format!("mamba2.{key}"), value), &format!("{key} {value}"));
    }
    let experts = model("qwen3moe");
    for (key, value) in [
        ("expert_count", 0),
        ("expert_count", 7),
        ("expert_count", 1025),
        ("expert_used_count", 0),
        ("expert_used_count", 9),
        ("expert_feed_forward_length", 0),
        ("expert_feed_forward_length", 31),
    ] {
        corrupt(experts.clone().u32(&format!("qwen3moe.{key}"), value), &format!("{key} {value}"));
    }
    corrupt(experts.clone().without_tensor("blk.0.ffn_gate_inp.weight"), "nobody chooses");
    corrupt(experts.clone().without_tensor("blk.1.ffn_down_exps.weight"), "no way down");
    let unknown = experts.clone().u32("qwen3moe.expert_gating_func", 9);
    refused(&unknown, Code::UnsupportedModel, "gating");
    refused(&experts.u32("qwen3moe.expert_group_count", 2), Code::UnsupportedModel, "groups");
}
