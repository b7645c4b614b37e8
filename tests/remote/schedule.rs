//! A long run of random faults ends as a simple model of the policy says.

use super::{TEXT, World, ask, collect};
use candlewick::Code;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// An answer.
    Fine,
    /// Another attempt, of the few that there are.
    Again(Code),
    /// Another attempt that is not counted.
    Loading,
    /// The end.
    Fatal(Code),
    /// The end, after part of the answer.
    Middle(Code),
}
use Outcome::*;

const FAULTS: [(&str, Outcome); 38] = [
    ("none", Fine),
    ("slow", Fine),
    ("windows", Fine),
    ("comments", Fine),
    ("no-done", Fine),
    ("whole", Fine),
    ("400", Fatal(Code::InvalidArgument)),
    ("400-context", Fatal(Code::ContextLengthExceeded)),
    ("401", Fatal(Code::Unauthorized)),
    ("402", Fatal(Code::ResourceExhausted)),
    ("403", Fatal(Code::Unauthorized)),
    ("404", Fatal(Code::ModelNotFound)),
    ("410", Fatal(Code::ModelNotFound)),
    ("422", Fatal(Code::InvalidArgument)),
    ("429-long", Fatal(Code::RateLimited)),
    ("error-200-auth", Fatal(Code::Unauthorized)),
    ("error-first-fatal", Fatal(Code::InvalidArgument)),
    ("408", Again(Code::Network)),
    ("425", Again(Code::ProviderError)),
    ("429", Again(Code::RateLimited)),
    ("429-after", Again(Code::RateLimited)),
    ("429-limit", Again(Code::RateLimited)),
    ("500", Again(Code::ProviderError)),
    ("502", Again(Code::ProviderError)),
    ("503", Again(Code::ProviderError)),
    ("504", Again(Code::ProviderError)),
    ("reset", Again(Code::Network)),
    ("cut", Again(Code::Network)),
    ("error-200", Again(Code::ProviderError)),
    ("nonsense", Again(Code::ProviderError)),
    ("error-first", Again(Code::ProviderError)),
    ("cut-first", Again(Code::Network)),
    ("cut-role", Again(Code::Network)),
    ("garbage", Again(Code::ProviderError)),
    ("shapeless", Again(Code::ProviderError)),
    ("empty", Again(Code::ProviderError)),
    ("loading", Loading),
    ("end-role", Again(Code::Network)),
];
/// These only make sense after some text.
const LATE: [(&str, Outcome); 5] = [
    ("error-middle", Middle(Code::ProviderError)),
    ("cut-middle", Middle(Code::Network)),
    ("end-middle", Middle(Code::Network)),
    ("garbage-middle", Middle(Code::ProviderError)),
    ("failed-middle", Middle(Code::ProviderError)),
];

/// The policy, in a few lines: the outcome of the request and the attempts it takes.
fn predict(script: &[(&str, Outcome)], limit: u32) -> (Outcome, u32) {
    let mut failed = 0;
    for (made, (_, outcome)) in (1..).zip(script) {
        match outcome {
            Again(code) => {
                failed += 1;
                if failed == limit {
                    return (Fatal(*code), made);
                }
            }
            Loading => {}
            end => return (*end, made),
        }
    }
    (Fine, script.len() as u32 + 1)
}

#[test]
fn random_faults_end_as_predicted() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut pick = |below: usize| random.next_u32() as usize % below;
    let all: Vec<_> = FAULTS.iter().chain(&LATE).copied().collect();
    // Half of all draws can be tried again, so that requests get far.
    let passing: Vec<_> =
        all.iter().copied().filter(|(_, outcome)| matches!(outcome, Again(_) | Loading)).collect();
    let (mut answers, mut round, mut met) = (0, 0, std::collections::BTreeSet::new());
    while answers < 700 {
        let script: Vec<_> = (0..pick(8))
            .map(|_| if pick(3) > 0 { passing[pick(passing.len())] } else { all[pick(all.len())] })
            .collect();
        let names: Vec<_> = script.iter().map(|(name, _)| *name).collect();
        let world = World::with(&format!("schedule-{round}"), &names);
        let client = world.client();
        let (outcome, attempts) = predict(&script, 5);
        let (chunks, error) = collect(client.chat("org/large", ask(true)).unwrap());

        let retries = chunks.iter().filter(|chunk| chunk.retry.is_some()).count() as u32;
        assert_eq!(retries, attempts - 1, "{names:?}");
        assert_eq!(world.log().len() as u32, attempts, "{names:?}");
        let text: String = chunks
            .iter()
            .flat_map(|chunk| &chunk.choices)
            .filter_map(|choice| choice.delta.as_ref()?.content.clone())
            .collect();
        match outcome {
            Fine => {
                assert_eq!((error, text.as_str()), (None, TEXT), "{names:?}");
                assert_eq!(
                    chunks.last().unwrap().candlewick.as_ref().unwrap().attempts,
                    attempts,
                    "{names:?}"
                );
            }
            Fatal(code) => {
                assert_eq!((error.map(|error| error.code), text.as_str()), (Some(code), ""), "{names:?}");
            }
            Middle(code) => {
                assert_eq!(error.map(|error| error.code), Some(code), "{names:?}");
                assert!(!text.is_empty() && TEXT.starts_with(&text) && text != TEXT, "{names:?}: {text}");
            }
            Again(_) | Loading => unreachable!("these go on"),
        }
        answers += attempts;
        round += 1;
        met.extend(names.into_iter().take(attempts as usize));
    }
    assert_eq!(met.len(), all.len(), "every fault was met");
}
