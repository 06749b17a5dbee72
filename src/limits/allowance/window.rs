//! A sum over a moving stretch of time: what was taken in the last day, or the last five minutes.
//!
//! Time is cut into steps, and the window counts whole steps: as many as its length, and the one that has
//! begun. So it counts what was taken for at least the window's length, and for up to one step more.

use std::collections::VecDeque;

/// The number of a step, counted from some beginning.
pub(super) type Step = u64;

#[derive(Debug)]
pub(super) struct Window {
    limit: u64,
    /// Its length.
    steps: u64,
    /// What was taken, by step, oldest first. Never zero.
    taken: VecDeque<(Step, u64)>,
    sum: u64,
}

impl Window {
    pub(super) fn new(limit: u64, steps: u64) -> Self {
        Self { limit, steps, taken: VecDeque::new(), sum: 0 }
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Whether there is room for `amount`; if not, from which step on there is. More than the whole limit has
    /// room in an empty window: it would wait for ever otherwise.
    pub(super) fn room(&mut self, amount: u64, now: Step) -> Result<(), Step> {
        self.forget_before(now);
        let mut left = self.sum;
        let has_room = |left: u64| left == 0 || amount == 0 || left.saturating_add(amount) <= self.limit;
        if has_room(left) {
            return Ok(());
        }
        for (step, taken) in &self.taken {
            left -= taken;
            if has_room(left) {
                return Err(step + self.steps + 1);
            }
        }
        Ok(())
    }

    /// Counts `amount`, whether there is room or not.
    pub(super) fn add(&mut self, amount: u64, now: Step) {
        if amount == 0 {
            return;
        }
        self.sum = self.sum.saturating_add(amount);
        match self.taken.back_mut() {
            Some((step, taken)) if *step >= now => *taken = taken.saturating_add(amount),
            _ => self.taken.push_back((now, amount)),
        }
    }

    /// Takes back what was added at `step`, if it still counts.
    pub(super) fn give_back(&mut self, amount: u64, step: Step) {
        let Some(at) = self.taken.iter().position(|(s, _)| *s == step) else { return };
        let amount = amount.min(self.taken[at].1);
        self.taken[at].1 -= amount;
        self.sum -= amount;
        if self.taken[at].1 == 0 {
            self.taken.remove(at);
        }
    }

    pub(super) fn is_empty(&mut self, now: Step) -> bool {
        self.forget_before(now);
        self.sum == 0
    }

    fn forget_before(&mut self, now: Step) {
        while let Some(&(step, taken)) = self.taken.front()
            && step + self.steps < now
        {
            self.sum -= taken;
            self.taken.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Takes any amounts, at times finer than the steps; no stretch of the window's length has more than
        /// the limit.
        #[test]
        fn no_window_holds_more_than_the_limit(
            limit in 1u64..50,
            steps in 1u64..30,
            takes in proptest::collection::vec((0u64..200, 1u64..60, any::<bool>()), 1..200),
        ) {
            const FINE: u64 = 10;
            let mut window = Window::new(limit, steps);
            let mut now = 0;
            let mut taken = Vec::<(u64, u64)>::new();
            for (pause, amount, give_back) in takes {
                now += pause;
                let step = now / FINE;
                let amount = amount.min(limit);
                match window.room(amount, step) {
                    Ok(()) if give_back => {
                        window.add(amount, step);
                        window.give_back(amount, step);
                    }
                    Ok(()) => {
                        window.add(amount, step);
                        taken.push((now, amount));
                    }
                    Err(later) => {
                        prop_assert!(later > step && later <= step + steps + 1);
                        prop_assert!(window.room(amount, later - 1).is_err(), "told to wait for too long");
                        prop_assert!(window.room(amount, later).is_ok(), "waited, and in vain");
                        now = later * FINE;
                        window.add(amount, later);
                        taken.push((now, amount));
                    }
                }
            }
            for (n, (from, _)) in taken.iter().enumerate() {
                let within = taken[n..].iter().take_while(|(at, _)| *at < from + steps * FINE);
                prop_assert!(within.map(|(_, amount)| amount).sum::<u64>() <= limit);
            }
        }
    }

    #[test]
    fn more_than_the_limit_goes_alone() {
        let mut window = Window::new(10, 5);
        assert_eq!(window.room(11, 0), Ok(()));
        window.add(11, 0);
        assert_eq!(window.room(1, 5), Err(6));
        assert_eq!(window.room(0, 5), Ok(()), "nothing always has room");
        window.add(1, 6);
        assert_eq!(window.room(11, 7), Err(12));
        assert!(!window.is_empty(11));
        assert!(window.is_empty(12));
    }

    #[test]
    fn what_is_given_back_late_is_given_back_where_it_was_taken() {
        let mut window = Window::new(10, 5);
        window.add(4, 0);
        window.add(6, 3);
        window.give_back(4, 0);
        assert_eq!(window.room(4, 3), Ok(()));
        window.give_back(6, 2);
        assert_eq!(window.room(5, 3), Err(9), "nothing was taken then");
        window.give_back(100, 3);
        assert!(window.is_empty(3));
    }
}
