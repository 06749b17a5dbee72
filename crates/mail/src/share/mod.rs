//! Shares of what all tenants have together: disk, workers, connections, memory, files in progress.
//!
//! One rule for all of them, that of dynamic thresholds (Choudhury and Hahne, 1998): a party that takes
//! something may have at most a fixed multiple of what is still free. No party has to know how many others
//! there are. One alone gets most of it. Each that comes makes less free, and so makes the share of all
//! smaller. Something is left for the party that comes next and has nothing yet. Nothing is taken back: a
//! party that has more than its share takes no more until it has given enough back.
//!
//! A party that has nothing gets what it asks for, if that is there. So the last place is never taken by a
//! party that has many, and a share is never too small for one message.
//!
//! Pure: figures in, a decision out. [`Places`] keeps the figures of what is counted in this process.

mod places;

pub use places::{Full, Place, Places};

/// How much one party may have, as a multiple of what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    times: u64,
}

impl Share {
    /// For what is soon given back: one party alone gets eight ninths.
    pub const BRIEF: Self = Self { times: 8 };
    /// For what is kept for long: one party alone gets half, each of two a third.
    pub const LASTING: Self = Self { times: 1 };

    /// Whether a party that has `held` may take `wanted` more of the `free` ones, as if it took them one
    /// after the other. If `wanted` is zero: whether it may take anything at all.
    pub fn allows(self, held: u64, wanted: u64, free: u64) -> bool {
        let wanted = wanted.max(1);
        if wanted > free {
            return false;
        }
        let before_last = held.saturating_add(wanted - 1);
        let free_then = free - (wanted - 1);
        held == 0 || before_last < free_then.saturating_mul(self.times)
    }

    /// How many of `wanted` a party that has `held` may take.
    pub fn most(self, held: u64, wanted: u64, free: u64) -> u64 {
        let wanted = wanted.min(free);
        if wanted == 0 || self.allows(held, wanted, free) {
            return wanted;
        }
        // The largest n with held + n - 1 < times * (free - n + 1), in whole numbers.
        let room = (u128::from(self.times) * (u128::from(free) + 1)).saturating_sub(held.into());
        let most = room / (u128::from(self.times) + 1);
        u64::try_from(most).unwrap_or(u64::MAX).min(wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each of `greedy` parties ends up with, out of `all`, if each takes all that it can get.
    fn settled(share: Share, all: u64, greedy: usize) -> (Vec<u64>, u64) {
        let mut held = vec![0; greedy];
        let mut free = all;
        loop {
            let before = free;
            for one in &mut held {
                if share.allows(*one, 1, free) {
                    *one += 1;
                    free -= 1;
                }
            }
            if free == before {
                return (held, free);
            }
        }
    }

    #[test]
    fn one_alone_gets_most_and_the_share_shrinks_as_others_come() {
        assert_eq!(settled(Share::BRIEF, 900, 1), (vec![800], 100));
        assert_eq!(settled(Share::LASTING, 900, 1), (vec![450], 450));
        assert_eq!(settled(Share::LASTING, 900, 2), (vec![300, 300], 300));
        assert_eq!(settled(Share::LASTING, 1000, 9), (vec![100; 9], 100));
    }

    #[test]
    fn the_last_place_is_for_one_who_has_none() {
        for share in [Share::BRIEF, Share::LASTING] {
            for (all, greedy) in [(9, 1), (10, 1), (100, 3), (2000, 40)] {
                let (_, free) = settled(share, all, greedy);
                assert!(free > 0, "{share:?} {all} {greedy}");
                assert!(share.allows(0, free, free) && !share.allows(0, free + 1, free));
            }
        }
        // With a few places, eight are not many.
        assert!(Share::BRIEF.allows(0, 1, 1) && !Share::BRIEF.allows(8, 1, 1));
        assert!(!Share::LASTING.allows(0, 0, 0));
    }

    proptest! {
        #[test]
        fn the_most_is_the_most(held in 0..2000_u64, wanted in 0..600_u64, free in 0..2000_u64, times in 1..9_u64) {
            let share = Share { times };
            let most = share.most(held, wanted, free);
            prop_assert!(most <= wanted.min(free));
            prop_assert!(most == 0 || share.allows(held, most, free));
            prop_assert!(most == wanted.min(free) || !share.allows(held, most + 1, free));
        }

        #[test]
        fn no_figure_overflows(held: u64, wanted: u64, free: u64) {
            for share in [Share::BRIEF, Share::LASTING] {
                share.allows(held, wanted, free);
                share.most(held, wanted, free);
            }
        }
    }
}
