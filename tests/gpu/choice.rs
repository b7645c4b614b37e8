//! What is chosen of scores on the device, against the CPU's choice.

use crate::pair::Pair;
use candlewick::backend::gpu::Options;
use candlewick::backend::op::Embed;
use candlewick::backend::{Backend, Step, Token, Top, Wanted};
use candlewick::format::gguf::TensorType;
use candlewick::sampling::{Sampler, Sampling};

#[test]
fn choose() {
    let mut pair = Pair::new("default", &Options::from_env());
    for len in [1, 2, 31, 33, 63, 65, 127, 257, 4097, 50_000, 151_936] {
        const ROWS: usize = 3;
        let scores = pair.filled(ROWS, len);
        let choose = |pair: &mut Pair, rows: usize| {
            pair.both(|b| b.choose(scores, rows, len).unwrap());
            pair.both(|b| {
                let mut chosen = Vec::new();
                pollster::block_on(b.chosen(&mut chosen)).unwrap();
                chosen
            })
        };
        assert_eq!(choose(&mut pair, ROWS).len(), ROWS);
        assert_eq!(choose(&mut pair, 1).len(), 1);
        // The next step has them as its tokens.
        let chosen = choose(&mut pair, ROWS);
        let (table, out) = (pair.matrix(TensorType::F32, len, 32), pair.empty(ROWS, 32));
        let tokens = [2, 0, 1].map(Token::Chosen).to_vec();
        let step = Step { tokens, ..Step::single([0; ROWS], 0, 0) };
        pair.step(Embed { table, scale: 1.0, out }, &step);
        pair.compare("embed", out, ROWS * 32, 0.0);
        let mut by_number = Vec::new();
        pair.embed(&[chosen[2], chosen[0], chosen[1]], table, 1.0, out);
        pollster::block_on(pair.gpu.read(out, 0, ROWS, &mut by_number)).unwrap();
        pair.step(Embed { table, scale: 1.0, out }, &step);
        let mut on_the_device = Vec::new();
        pollster::block_on(pair.gpu.read(out, 0, ROWS, &mut on_the_device)).unwrap();
        assert!(by_number == on_the_device, "{len}");
        // All alike: the first wins.
        pair.both(|b| b.write(scores, &vec![0.5; ROWS * len]).unwrap());
        assert_eq!(choose(&mut pair, ROWS), [0; ROWS]);
    }
}

#[test]
fn top_k() {
    let mut pair = Pair::new("default", &Options::from_env());
    for len in [1, 2, 31, 33, 63, 65, 127, 257, 1023, 1025, 4097, 50_000, 151_936] {
        // The second of two rows.
        let scores = pair.empty(2, len);
        // Many equal ones, both zeros, and −∞.
        let values: Vec<f32> =
            (0..len).map(|i| [3.0, 0.0, -0.0, f32::NEG_INFINITY, -2.5][i * 7 % 5]).collect();
        let random = pair.random.numbers(len);
        let scaled = |scale: f32| random.iter().map(|number| scale * number).collect::<Vec<_>>();
        for (row, numbers) in [scaled(1.0), scaled(100.0), values].into_iter().enumerate() {
            pair.both(|b| b.write(scores, &[numbers.as_slice(), &numbers].concat()).unwrap());
            for count in [1, 2, 40, 200, 512] {
                let places: Vec<u32> = (0..count as u32 - 1).map(|i| i * 7919 % len as u32).collect();
                let wanted = Wanted { count, places, sum: true };
                let [mut expected, mut found] = [Top::default(), Top::default()];
                pollster::block_on(pair.cpu.top_k(scores, 1, len, &wanted, &mut expected)).unwrap();
                pollster::block_on(pair.gpu.top_k(scores, 1, len, &wanted, &mut found)).unwrap();
                let what = format!("{count} of {len}, numbers {row}");
                assert_eq!(expected.best, found.best, "{what}");
                assert_eq!(expected.picked, found.picked, "{what}");
                let difference = (expected.sum - found.sum).abs();
                assert!(
                    difference <= Top::SUM_ERROR / 10.0 * expected.sum,
                    "{what}: {expected:?}, {found:?}"
                );
                assert!(expected.finite && found.finite);
            }
        }
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            pair.both(|b| {
                let mut rows = vec![0.0; 2 * len];
                rows[len + len / 2] = bad;
                b.write(scores, &rows).unwrap();
                let mut top = Top::default();
                let wanted = Wanted { count: 3, places: Vec::new(), sum: true };
                pollster::block_on(b.top_k(scores, 1, len, &wanted, &mut top)).unwrap();
                assert!(!top.finite, "{bad} among {len}");
            });
        }
    }
}

/// Settings of every kind, drawn from all scores and from the top that the device found: the same tokens.
#[test]
fn sampling_from_the_top() {
    let mut pair = Pair::new("default", &Options::from_env());
    let len = 50_001;
    let numbers = pair.random.numbers(8 * len);
    let scores = pair.empty(1, len);
    let base = || Sampling { temperature: 1.1, seed: Some(5), ..Sampling::default() };
    let penalties = |settings| Sampling { repeat_penalty: 1.2, frequency_penalty: 0.3, ..settings };
    let bias = |settings| Sampling { logit_bias: [(7, 3.0), (40_000, -9.0)].into(), ..settings };
    let plain = [
        Sampling { temperature: 0.0, ..base() },
        Sampling { top_k: 1, ..base() },
        Sampling { top_k: 40, ..base() },
        Sampling { top_k: 400, top_p: 0.9, min_p: 0.01, ..base() },
        Sampling { top_k: 100, typical_p: 0.5, ..base() },
        Sampling { top_p: 0.9, ..base() },
        Sampling { top_p: 0.5, min_p: 0.05, ..base() },
        Sampling { min_p: 0.1, ..base() },
        Sampling { min_p: 0.0001, ..base() },
        base(),
    ];
    let (mut sufficed, mut not) = (0, 0);
    for settings in plain.clone().into_iter().chain(plain.clone().map(penalties)).chain(plain.map(bias)) {
        let mut whole = Sampler::new(&settings, len).unwrap();
        let mut from_top = whole.clone();
        for step in 0..24 {
            // From flat to sharp.
            let scale = [0.5, 200.0, 2000.0][step % 3];
            let numbers = &numbers[step % 8 * len..][..len];
            let scaled: Vec<f32> = numbers.iter().map(|number| scale * number).collect();
            pair.gpu.write(scores, &scaled).unwrap();
            let mut all = Vec::new();
            let mut top = Top::default();
            pollster::block_on(async {
                if let Some(wanted) = from_top.wanted() {
                    pair.gpu.top_k(scores, 0, len, &wanted, &mut top).await.unwrap();
                }
                pair.gpu.read(scores, 0, 1, &mut all).await.unwrap();
            });
            let token = whole.sample(&mut all.clone()).unwrap();
            let early = match from_top.wanted() {
                Some(_) => from_top.sample_top(&top).unwrap(),
                None => None,
            };
            match early {
                Some(early) => {
                    assert_eq!(early, token, "{settings:?}, step {step}");
                    sufficed += 1;
                }
                None => {
                    assert_eq!(settings.top_k, 0, "{settings:?}, step {step}");
                    assert_eq!(from_top.sample(&mut all).unwrap(), token);
                    not += 1;
                }
            }
            whole.accept(token);
            from_top.accept(token);
        }
    }
    println!("the top sufficed {sufficed} times, {not} times not");
    assert!(sufficed > 400 && not > 50);
}
