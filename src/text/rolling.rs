//! A hash of byte strings from which that of any part follows in constant time: two polynomials over the primes'
//! fields of 2³¹ − 1 elements (Rabin and Karp, IBM Journal of Research and Development 31, 1987), each at a random
//! place, so that no file can be made to collide.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

const PRIME: u64 = (1 << 31) - 1;

type Values = [u32; 2];

/// Hashes byte strings.
#[derive(Debug)]
pub(super) struct Rolling {
    bases: Values,
    /// By length, what a byte that far in front counts. As long as the longest part that is asked for.
    powers: Vec<Values>,
}

impl Rolling {
    /// For parts of up to `longest` bytes.
    pub(super) fn new(longest: usize) -> Rolling {
        let random = RandomState::new();
        let bases = [0, 1].map(|i| (256 + random.hash_one(i) % (PRIME - 512)) as u32);
        let mut rolling = Rolling { bases, powers: vec![[1, 1]] };
        for at in 0..longest {
            let next = rolling.push(rolling.powers[at], 0);
            rolling.powers.push(next);
        }
        rolling
    }

    /// The hash of `bytes`.
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        mix(bytes.iter().fold([0, 0], |values, &byte| self.push(values, u64::from(byte) + 1)))
    }

    /// From which parts of `text` are hashed.
    pub(super) fn prefixes(&self, text: &[u8]) -> Prefixes {
        let mut prefixes = Vec::with_capacity(text.len() + 1);
        let mut values = [0, 0];
        prefixes.push(values);
        prefixes.extend(text.iter().map(|&byte| {
            values = self.push(values, u64::from(byte) + 1);
            values
        }));
        Prefixes(prefixes)
    }

    /// The hash of a part; `None` if it is longer than any that is asked for, or not in the text.
    pub(super) fn part(&self, prefixes: &Prefixes, part: Range<usize>) -> Option<u64> {
        let powers = self.powers.get(part.len())?;
        let (before, whole) = (prefixes.0.get(part.start)?, prefixes.0.get(part.end)?);
        let value = |i: usize| {
            let before = u64::from(before[i]) * u64::from(powers[i]) % PRIME;
            ((u64::from(whole[i]) + PRIME - before) % PRIME) as u32
        };
        Some(mix([value(0), value(1)]))
    }

    fn push(&self, values: Values, byte: u64) -> Values {
        [0, 1].map(|i| {
            // Below 2⁶² + 2⁹, which one folding brings below twice the prime.
            let product = u64::from(values[i]) * u64::from(self.bases[i]) + byte;
            let folded = (product & PRIME) + (product >> 31);
            (if folded >= PRIME { folded - PRIME } else { folded }) as u32
        })
    }
}

/// The hashes of all beginnings of a text.
#[derive(Debug)]
pub(super) struct Prefixes(Vec<Values>);

/// Tables take some bits from the top and others from the bottom.
fn mix([high, low]: Values) -> u64 {
    let both = u64::from(high) << 32 | u64::from(low);
    let spread = both.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread ^ spread >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hash_as_by_themselves() {
        let rolling = Rolling::new(20);
        let text: Vec<u8> = (0..300u32).map(|i| (i * i % 256) as u8).collect();
        let prefixes = rolling.prefixes(&text);
        for start in 0..=text.len() {
            for end in start..=text.len() {
                let wanted = (end - start <= 20).then(|| rolling.hash(&text[start..end]));
                assert_eq!(rolling.part(&prefixes, start..end), wanted);
            }
        }
        assert_eq!(rolling.part(&prefixes, 290..301), None);
        assert_ne!(rolling.hash(b"\0"), rolling.hash(b"\0\0"));
        assert_ne!(rolling.hash(b"ab"), Rolling::new(0).hash(b"ab"));
    }
}
