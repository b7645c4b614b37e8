//! A long run of random faults ends as a simple model of the policy says.

use super::{TEXT, World, ask, collect};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of an attempt; the texts are error codes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// An answer.
    Fine,
    /// Another attempt, of the few that there are.
    Again(String),
    /// Another attempt that is not counted.
    Loading,
    /// The end.
    Fatal(String),
    /// The end, after part of the answer.
    Middle(String),
}
use Outcome::*;

/// The policy, in a few lines: the outcome of the request and the attempts it takes.
fn predict(script: &[&(String, Outcome)], limit: u32) -> (Outcome, u32) {
    let mut failed = 0;
    for (made, (_, outcome)) in (1..).zip(script.iter().copied()) {
        match outcome {
            Again(code) => {
                failed += 1;
                if failed == limit {
                    return (Fatal(code.clone()), made);
                }
            }
            Loading => {}
            end => return (end.clone(), made),
        }
    }
    (Fine, script.len() as u32 + 1)
}

#[test]
fn random_faults_end_as_predicted() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut pick = |below: usize| random.next_u32() as usize % below;
    let outcomes: BTreeMap<_, _> = serde_json::from_str(include_str!("outcomes.json")).unwrap();
    let all: Vec<(String, Outcome)> = outcomes.into_iter().collect();
    // Half of all draws can be tried again, so that requests get far.
    let passing: Vec<_> = all.iter().filter(|(_, outcome)| matches!(outcome, Again(_) | Loading)).collect();
    let (mut answers, mut round, mut met) = (0, 0, BTreeSet::new());
    while answers < 700 {
        let script: Vec<_> = (0..pick(8))
            .map(|_| if pick(3) > 0 { passing[pick(passing.len())] } else { &all[pick(all.len())] })
            .collect();
        let names: Vec<_> = script.iter().map(|(name, _)| name.as_str()).collect();
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
                assert_eq!(
                    (error.map(|error| error.code.as_str()), text.as_str()),
                    (Some(code.as_str()), ""),
                    "{names:?}"
                );
            }
            Middle(code) => {
                assert_eq!(error.map(|error| error.code.as_str()), Some(code.as_str()), "{names:?}");
                assert!(!text.is_empty() && TEXT.starts_with(&text) && text != TEXT, "{names:?}: {text}");
            }
            Again(_) | Loading => unreachable!("these go on"),
        }
        answers += attempts;
        round += 1;
        met.extend(script.iter().take(attempts as usize).map(|(name, _)| name.clone()));
    }
    assert_eq!(met.len(), all.len(), "every fault was met");
}
