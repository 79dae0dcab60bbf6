//! Chance that can be had again: the same seed and stream always give the same numbers.

use uuid::Uuid;

/// SplitMix64. Written out, because a seed must mean the same schedule after every update of every library.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The numbers of one part of a run; parts do not disturb each other.
    pub fn new(seed: u64, stream: &str) -> Self {
        let mixed = stream
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ mixed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// An index into something of that length, which is not empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.between(0, length as u64 - 1)).unwrap_or(0)
    }

    /// True in that many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// Another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// An id in the form of a UUIDv7, whose time is `number`.
    pub fn id(&mut self, number: u64) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next().to_le_bytes());
        random[8..].copy_from_slice(&self.next().to_le_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(1_700_000_000_000 + number, &random).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_for_ever() {
        let mut chance = Chance::new(7, "schedule");
        let drawn: Vec<u64> = (0..4).map(|_| chance.between(0, 999)).collect();
        assert_eq!(drawn, [548, 15, 292, 116]);
        assert_ne!(Chance::new(7, "workload").next(), Chance::new(7, "schedule").next());
        assert_ne!(Chance::new(8, "schedule").next(), Chance::new(7, "schedule").next());
    }

    #[test]
    fn bounds_are_kept_and_reached() {
        let mut chance = Chance::new(1, "bounds");
        let drawn: Vec<u64> = (0..500).map(|_| chance.between(3, 5)).collect();
        assert!([3, 4, 5].iter().all(|n| drawn.contains(n)) && drawn.iter().all(|n| (3..=5).contains(n)));
        assert_eq!(chance.index(1), 0);
    }

    #[test]
    fn ids_are_in_the_order_of_their_numbers() {
        let mut chance = Chance::new(1, "ids");
        let (first, second) = (chance.id(1), chance.id(2));
        assert!(first < second);
        assert_eq!(first.get_version_num(), 7);
    }
}
